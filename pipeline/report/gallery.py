"""What a gallery shows: clips with sheets of pictures, as files beside the page, and numbers, as JSON inside it.

A sheet is one image with a column for each frame of a clip and a row for each kind of picture; the page cuts single
frames out of it. Files are numbered, so that no clip's name becomes a path.

Shapes: T frames of one clip, H W pixels, h w those of a picture.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from ...base import IGNORE_LABEL
from ...data.clip import SAMPLE_RATE, Clip
from ...data.store.store import ClipStore
from ..common.pictures import label_colours, overlay_labels

MAX_SIDE = 128  # pixels, of a picture
QUALITY = 82  # of WebP
FILES = "files"


@dataclass(frozen=True)
class Measure:
    """A number of every clip, and perhaps of every frame, to sort by.

    what, of: its column and row in the table beside each clip; a measure without them is in no table.
    """

    key: str
    label: str
    what: str = ""
    of: str = ""


@dataclass
class Item:
    """One clip. values: by measure. frames: by measure, one value for each frame, or None.

    sheets: file names relative to the page, one for each of the gallery's sheets; None: there is none.
    """

    id: str
    split: str
    objects: tuple[str, ...]
    length: int  # T
    aspect: float  # width / height of a frame
    sheets: list[str | None] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)
    frames: dict[str, list[float | None]] = field(default_factory=dict)
    sound: str | None = None

    @classmethod
    def of(cls, clip: Clip, size: tuple[int, int]) -> "Item":
        return cls(clip.id, clip.split, clip.objects, clip.num_frames, size[1] / size[0])


@dataclass
class Gallery:
    """rows: for each sheet the names of its rows. sort: the measure to sort by at first."""

    title: str
    rows: list[list[str]]
    items: list[Item]
    measures: list[Measure] = field(default_factory=list)
    sort: str = ""

    def to_json(self) -> dict[str, Any]:
        """With short numbers, which are most of the page for thousands of clips."""
        items = [asdict(item) for item in self.items]
        for item in items:
            item["values"] = {k: _short(v) for k, v in item["values"].items()}
            item["frames"] = {k: [_short(v) for v in row] for k, row in item["frames"].items()}
        return {**vars(self), "measures": [asdict(m) for m in self.measures], "items": items}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def shrink(images: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 3] to [T, h, w, 3], with no side above `MAX_SIDE`."""
    height, width = picture_size(*images.shape[1:3])
    if (height, width) == images.shape[1:3]:
        return images
    return np.stack([np.asarray(Image.fromarray(i).resize((width, height), Image.Resampling.BOX)) for i in images])


def picture_size(height: int, width: int) -> tuple[int, int]:
    """(h, w) of the pictures of frames of (H, W)."""
    scale = min(1.0, MAX_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def pick_pixels(masks: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize masks or labels, [..., H, W] to [..., height, width], by picking the nearest pixels."""
    rows = np.arange(height) * masks.shape[-2] // height
    columns = np.arange(width) * masks.shape[-1] // width
    return masks[..., rows[:, None], columns]


def write_sheet(out: Path, name: str, rows: list[np.ndarray]) -> str:
    """Write rows of pictures, each uint8 [T, h, w, 3], as one WebP. Returns its name relative to the page."""
    framed = [np.pad(row, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255) for row in rows]
    lines = [np.concatenate(list(row), 1) for row in framed]
    Image.fromarray(np.concatenate(lines)).save(out / FILES / f"{name}.webp", quality=QUALITY, method=2)
    return f"{FILES}/{name}.webp"


def write_sound(out: Path, name: str, waveform: np.ndarray) -> str:
    """Write int16 [samples], mono, 16 kHz, as FLAC, which every browser plays."""
    soundfile.write(out / FILES / f"{name}.flac", waveform, SAMPLE_RATE)
    return f"{FILES}/{name}.flac"


def sound_row(log_mel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Cut the image of a log-mel, uint8 [64, T x 96, 3], into a row of T pictures of `size` = (h, w)."""
    seconds = [Image.fromarray(part) for part in np.split(log_mel, log_mel.shape[1] // 96, axis=1)]
    return np.stack([np.asarray(second.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for second in seconds])


def clip_rows(clips: ClipStore, row: int, *, labelled: bool) -> list[np.ndarray]:
    """Pictures of the clip in a row of the table, its frames and, if labelled, its truth: uint8 [T, h, w, 3] each."""
    span = clips.span(row)
    frames = clips.read("frames", *span)
    if not labelled:
        return [shrink(frames)]
    colours = label_colours(len(clips.classes))
    pairs = zip(frames, clips.read("labels", *span), strict=True)
    return [shrink(frames), shrink(np.stack([_paint_truth(frame, labels, colours) for frame, labels in pairs]))]


def _paint_truth(frame: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A frame [H, W, 3] with its labels [H, W] painted over; blank without truth."""
    if (labels == IGNORE_LABEL).all():
        return np.full_like(frame, 235)
    return overlay_labels(frame, np.where(labels == IGNORE_LABEL, 0, labels), colours)
