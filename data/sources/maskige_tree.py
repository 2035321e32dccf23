"""The published Maskiges: palette images in folders named pre_SAM_mask.

They were made by Semantic-SAM, and the published numbers rest on them; the masks themselves were not released.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import BadInput, ComboError
from ..clip import Clip
from ..images import image_header, open_image
from ..masks import colour_index
from ..palette import PALETTE
from ..resize import fit_crop, fit_squash
from .avsbench.checks import clip_problems, wrong_size
from .avsbench.layout import candidates, safe_name

MODES = ("P", "RGB")  # PIL modes
MAX_BYTES = 64 << 20  # of one image; those of 720p have 20 kB
NAMED_COLOURS = 150  # entries of the palette that ADE20K names
_LAST_CHUNK = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Layout:
    """Where the images of a subset lie below the data set's root."""

    folder: tuple[str, ...]
    files: Callable[[Path, Clip], list[Path]]  # T images, from the folder and a clip


def _s4_files(folder: Path, clip: Clip) -> list[Path]:
    home = folder / clip.split / safe_name(clip.objects[0], "the clip table", "the category") / clip.id
    return [home / f"{clip.id}_{k + 1}_mask_color.png" for k in range(clip.num_frames)]


def _ms3_files(folder: Path, clip: Clip) -> list[Path]:
    return [folder / clip.id / f"{clip.id}.mp4_{k + 1}_mask_color.png" for k in range(clip.num_frames)]


def _avss_files(folder: Path, clip: Clip) -> list[Path]:
    home = folder / clip.subset / clip.id
    frames = next((home / name for name in ("processed_frames", "frames") if (home / name).is_dir()), home / "frames")
    return [frames / f"{k}_mask_color.png" for k in range(clip.num_frames)]


_AVSS = Layout(("AVSBench_semantic", "pre_SAM_mask", "AVSBench_semantic"), _avss_files)
LAYOUTS = {  # by Clip.subset
    "s4": Layout(("AVSBench_object", "Single-source", "s4_data", "pre_SAM_mask"), _s4_files),
    "ms3": Layout(("AVSBench_object", "Multi-sources", "ms3_data", "pre_SAM_mask"), _ms3_files),
    **dict.fromkeys(("v1s", "v1m", "v2"), _AVSS),
}


def read_maskige(path: Path) -> np.ndarray:
    """uint8 [H, W, 3], RGB, in the colours of `PALETTE`.

    Indices from 150 on, which the palette of the file need not name, are grey, as the published readers saw them.
    Raises ValueError that names a file that is broken, neither palette nor RGB, or has another palette than ADE20K's.
    """
    with open_image(path) as image:
        if image.mode not in MODES:
            raise ValueError(f"image mode {image.mode}; Maskiges are palette or RGB images")
        if image.mode == "RGB":
            return np.array(image)
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)[:NAMED_COLOURS]
        if not np.array_equal(palette, PALETTE[: len(palette)]):
            raise ValueError("its palette is not that of ADE20K, so its indices mean something else")
        return colour_index(np.asarray(image))


class MaskigeTree:
    """The Maskiges of all given clips: all there, complete by their headers, and of the right size."""

    def __init__(self, source_dir: Path, clips: Iterable[Clip], size: tuple[int, int]) -> None:
        """source_dir: the data set's root, a folder on the way, or the one that holds the images.

        size: (H, W) of the Maskiges. Those of S4 and MS3 must have it; those of AVSS, of any size, are cropped
        (train) or squashed (val, test) to it by nearest neighbour, as published.
        Raises `BadInput` that lists every file that is missing or unfit.
        """
        self.size = size
        clips = list(clips)
        layout = _layout_of(clips)
        self.folder = _locate(Path(source_dir), layout, clips)
        self.resizes = layout is _AVSS
        self._files = {clip.id: layout.files(self.folder, clip) for clip in clips}
        self._sha256: dict[Path, str] = {}
        if problems := clip_problems(clips, self._problems, "checking Maskiges"):
            headline = f"problems with the Maskiges in {self.folder} ({len(problems)}):"
            raise BadInput.listing(headline, problems, "Nothing was imported.")
        contents = [[clip.id, [self._sha256[path] for path in self._files[clip.id]]] for clip in clips]
        self.sha256 = hashlib.sha256(json.dumps(contents).encode()).hexdigest()  # of all images, by clip

    def read(self, clip: Clip) -> np.ndarray:
        """The Maskiges of one clip: uint8 [T, H, W, 3], RGB.

        Raises ComboError naming a file that cannot be decoded or has changed since it was checked.
        """
        return np.stack([self._read(path, clip) for path in self._files[clip.id]])

    def _read(self, path: Path, clip: Clip) -> np.ndarray:
        try:
            if _sha256(path) != self._sha256[path]:
                raise ValueError(f"{path} has changed since it was checked")
            image = read_maskige(path)
        except (ValueError, OSError) as error:
            raise ComboError(f"{error}; put the published file in its place and run the command again") from error
        if not self.resizes:
            return image
        fit = fit_crop if clip.split == "train" else fit_squash
        return fit(image, self.size[0], nearest=True)

    def _problems(self, clip: Clip) -> Iterator[str]:
        """What is wrong with the images of one clip. Keeps their sha256."""
        files = self._files[clip.id]
        if missing := [path for path in files if not path.is_file()]:
            yield f"{missing[0]} is missing" + (f", and {len(missing) - 1} more of them" if missing[1:] else "")
        for path in (path for path in files if path not in missing):
            try:
                self._sha256[path] = _sha256(path)
                mode, size = image_header(path)
            except (ValueError, OSError) as error:
                yield str(error)
                continue
            if mode not in MODES:
                yield f"{path} has image mode {mode}; Maskiges are palette or RGB images"
            if size != self.size and not self.resizes:
                yield wrong_size(path, size, self.size)


def _layout_of(clips: list[Clip]) -> Layout:
    """That of all these clips. Raises `BadInput` for other clips, and for ids that are no file names."""
    for clip in clips:
        safe_name(clip.id, "the clip table", "a clip id")
        safe_name(clip.split, "the clip table", "a split")
    layouts = {LAYOUTS.get(clip.subset) for clip in clips}
    layout = layouts.pop() if len(layouts) == 1 else None
    if layout is None:
        subsets = ", ".join(sorted({clip.subset for clip in clips})) or "none"
        raise BadInput(f"published Maskiges exist for S4, MS3 and AVSS; these clips are of {subsets}")
    return layout


def _locate(source_dir: Path, layout: Layout, clips: list[Clip]) -> Path:
    folders = candidates(source_dir, layout.folder)
    for folder in folders:
        if any(layout.files(folder, clip)[0].is_file() for clip in clips):
            return folder
    looked = [str(layout.files(folder, clips[0])[0]) for folder in folders]
    raise BadInput.listing(f"no Maskiges of these clips in {source_dir}; looked for files such as", looked)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES >> 20} MiB")
    if not data.endswith(_LAST_CHUNK):
        raise ValueError(f"{path} is cut short, or not a PNG file")
    return hashlib.sha256(data).hexdigest()
