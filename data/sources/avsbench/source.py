"""AVSBench as a source of clips: the object subsets S4 and MS3, and the semantic set AVSS.

The clip lists are the published CSV files, never folder listings: a stray folder changes nothing.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ....base import IGNORE_LABEL
from ....errors import BadInput, ClipError
from ....safe_pickle import read_tensor_pickle
from ...clip import LOG_MEL_SHAPE, Clip, ClipArrays, ShortAudio
from ...images import read_rgb
from ...resize import fit_crop, fit_squash
from ...wav import read_wav
from .checks import clip_problems, header_faults, wrong_size
from .labels import BINARY_CLASSES, read_class_names, read_labels
from .layout import SUBSETS, locate, read_clips
from .source_videos import source_aware

READER_VERSION = 1  # raised when a change of the readers changes an array
RESIZE_ORDER = "width, then height"  # in the parameters of stores with pictures taller than wide
AVSS_SECONDS = 10  # rows of every log-mel pickle of AVSS, also of 5-second clips
Splits = Literal["official", "source-aware"]


class AvsBenchSource:
    """A `ClipSource` of one subset of AVSBench. Labels of S4 and MS3 are binary, those of AVSS are classes."""

    def __init__(
        self,
        source_dir: Path,
        subset: str,
        size: int = 224,
        *,
        log_mel_pickles: bool = False,
        split: Splits = "official",
    ) -> None:
        """subset: s4, ms3 or avss.

        source_dir: the folder that holds AVSBench_object and AVSBench_semantic, or the subset's own folder.
        size: side of the square frames, in pixels. S4 and MS3 frames must have it; AVSS frames, of any size, are
        cropped (train) or squashed (val, test) to it, as published.
        log_mel_pickles: take log-mels from the pickles that come with the data set instead of computing them.
        split: "source-aware" keeps the official test split, and of val and train the clips whose source video is in
        no split before them (see `source_videos`).
        Raises `BadInput` that lists every missing or unfit file of every clip.
        """
        if subset not in SUBSETS:
            raise BadInput(f"unknown AVSBench subset {subset!r}; there are {', '.join(SUBSETS)}")
        if size < 1:
            raise BadInput(f"frames of {size} pixels cannot be made")
        if split not in get_args(Splits):
            raise BadInput(f"unknown splits {split!r}; there are {' and '.join(get_args(Splits))}")
        layout = SUBSETS[subset]
        self._layout = layout
        self._is_object = subset != "avss"
        self._log_mel_pickles = log_mel_pickles
        self.source_dir = Path(source_dir)
        self._folder = locate(Path(source_dir), layout)
        self.name = f"avsbench-{subset}" if split == "official" else f"avsbench-{split}-{subset}"
        self.size = (size, size)
        self.short_audio: ShortAudio = layout.short_audio
        names = self._folder / "label2idx.json"
        self.classes: tuple[str, ...] = BINARY_CLASSES if self._is_object else read_class_names(names)
        self.parameters = {
            "reader": READER_VERSION,
            "subset": subset,
            "size": size,
            "resize": "none" if self._is_object else "crop for train, squash for val and test",
            **({"log_mel": "pickles of the data set"} if log_mel_pickles else {}),
            **({"split": split} if split != "official" else {}),
        }
        self._sizes: set[tuple[int, int]] = set()  # (H, W) of all pictures
        clip_list = self._folder / layout.list_name
        listed = read_clips(clip_list, layout)
        self.clips = listed if split == "official" else source_aware(listed)
        if problems := clip_problems(self.clips, self._problems, "checking files"):
            headline = f"problems with the files that {clip_list} lists ({len(problems)}):"
            advice = f"Nothing was imported. Repair these files, or take their clips out of {clip_list.name}."
            raise BadInput.listing(headline, problems, advice)
        if not self._is_object and any(height > width for height, width in self._sizes):
            # Stores that were made with another order, by a later Pillow, hold other bytes of these pictures.
            self.parameters["resize_order"] = RESIZE_ORDER

    @property
    def folder(self) -> Path:
        """Of the subset, which holds all of its files."""
        return self._folder

    def read(self, clip: Clip) -> ClipArrays:
        """Decode one clip. Raises `ClipError` that names the clip and the file that cannot be decoded."""
        files = self._layout.files(self._folder, clip)
        try:
            frames = np.stack([self._fit(read_rgb(path), clip, path) for path in files.frames])
            labels = np.full((clip.num_frames, *self.size), IGNORE_LABEL, np.uint8)
            for k, path in enumerate(files.labels):
                if path is not None:
                    labels[k] = self._fit(read_labels(path, files.coding, len(self.classes)), clip, path)
            log_mel = read_log_mel(files.log_mel, clip) if self._log_mel_pickles else None
            return ClipArrays(frames, labels, read_wav(files.sound), log_mel)
        except ValueError as error:
            raise ClipError(f"clip {clip.id!r}: {error}") from error

    def _fit(self, image: np.ndarray, clip: Clip, path: Path) -> np.ndarray:
        """A frame [H, W, 3] or a label map [H, W], brought to `size`."""
        if self._is_object:
            if image.shape[:2] != self.size:
                raise ValueError(wrong_size(path, image.shape[:2], self.size))
            return image
        fit = fit_crop if clip.split == "train" else fit_squash
        return fit(image, self.size[0], nearest=image.ndim == 2)

    def _problems(self, clip: Clip) -> Iterator[str]:
        files = self._layout.files(self._folder, clip)
        faults = header_faults(files, self.size if self._is_object else None, self._sizes)
        yield from (what for _, what in faults)
        if self._log_mel_pickles and not files.log_mel.is_file():
            yield f"{files.log_mel} is missing"


def read_log_mel(path: Path, clip: Clip) -> np.ndarray:
    """A log-mel that comes with the data set: float32 [T, 96, 64]; of the rows of AVSS the first T, as published.

    Raises ValueError that names a file that is damaged, unfit, or holds code.
    """
    log_mel = read_tensor_pickle(path)
    rows = clip.num_frames if clip.subset in ("s4", "ms3") else AVSS_SECONDS
    if log_mel.shape != (rows, 1, *LOG_MEL_SHAPE) or log_mel.dtype != np.float32:
        raise ValueError(f"{path} holds {log_mel.dtype} {list(log_mel.shape)}; expected float32 [{rows}, 1, 96, 64]")
    if not np.isfinite(log_mel).all():
        raise ValueError(f"{path} has values that are not finite")
    return log_mel[: clip.num_frames, 0]
