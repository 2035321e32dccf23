"""What is wrong with the files of a clip: headers and listings before an import, pixels for `combo doctor`.

A fault is its kind and a sentence that names the file.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from tqdm import tqdm

from ...clip import Clip
from ...images import FRAME_MODES, image_header, open_image
from ...wav import check_wav
from .labels import LABEL_MODES, binary_labels, colour_labels, index_labels
from .layout import ClipFiles

# The import refuses the first four (unfit: another size or image mode; extra: images beside the frames), quarantines a
# clip for "value" (of no class), and takes the rest.
Kind = Literal["missing", "unreadable", "unfit", "extra", "value", "grey", "zero-one", "empty", "float", "short"]
Fault = tuple[Kind, str]

CHECK_THREADS = 8  # checks wait for the disk
BAR_FROM = 500  # clips; fewer are checked in a moment


def clip_problems(clips: Sequence[Clip], problems_of: Callable[[Clip], Iterable[str]], what: str) -> list[str]:
    """What `problems_of` yields for each clip, in order; called in threads, with a progress bar on a terminal."""

    def check(clip: Clip) -> list[str]:
        return [f"clip {clip.id!r}: {problem}" for problem in problems_of(clip)]

    hidden = True if len(clips) < BAR_FROM else None  # None: hidden unless on a terminal
    with ThreadPoolExecutor(CHECK_THREADS) as pool:
        checked = tqdm(pool.map(check, clips), what, len(clips), leave=False, unit=" clips", disable=hidden)
        return [problem for problems in checked for problem in problems]


def header_faults(
    files: ClipFiles, exact: tuple[int, int] | None, sizes_seen: set[tuple[int, int]] | None = None
) -> Iterator[Fault]:
    """What headers and folder listings show to be wrong: everything that an import refuses.

    exact: the (H, W) that every frame must have; None if frames may have any. sizes_seen: gets the sizes of all
    pictures.
    """
    yield from _extra_pictures(files.frames)
    pictures = [path for path in (*files.frames, *files.labels) if path is not None]
    if missing := [path for path in pictures if not path.is_file()]:
        yield "missing", f"{missing[0]} is missing" + (f", and {len(missing) - 1} more pictures" if missing[1:] else "")
    for frame, label in zip(files.frames, files.labels, strict=True):
        sizes = []
        for path, modes in ((frame, FRAME_MODES), (label, LABEL_MODES[files.coding])):
            if path is None or path in missing:
                continue
            try:
                mode, size = image_header(path)
            except ValueError as error:
                yield "unreadable", str(error)
                continue
            if mode not in modes:
                yield "unfit", f"{path} has image mode {mode}; expected {' or '.join(modes)}"
            sizes.append(size)
            expected = exact or sizes[0]  # a label map is as large as its frame
            if size != expected:
                yield "unfit", wrong_size(path, size, expected)
        if sizes_seen is not None:
            sizes_seen.update(sizes)
    for problem in check_wav(files.sound):
        yield ("unreadable" if files.sound.is_file() else "missing"), problem


def sound_faults(path: Path, seconds: int) -> Iterator[Fault]:
    """What is odd about a sound that can be read, from its header. seconds: the length of its clip, T."""
    sound = soundfile.info(str(path))
    if sound.subtype in ("FLOAT", "DOUBLE"):
        yield "float", f"{path} holds {sound.subtype} samples"
    if sound.duration < 0.96 * seconds + 0.015:  # T log-mel examples of 96 steps of 10 ms, the last window of 25 ms
        yield "short", f"{path} lasts {sound.duration:.2f} s of {seconds} s"


def label_faults(path: Path, coding: str, num_classes: int) -> Iterator[Fault]:
    """What the pixels of a label map show to be wrong or odd. Decodes it."""
    mode = {"binary": "L", "index": None, "colour": "RGB"}[coding]
    try:
        with open_image(path) as image:
            pixels = np.asarray(image.convert(mode) if mode else image)
    except ValueError as error:
        yield "unreadable", str(error)
        return
    try:
        if not pixels.any():
            yield "empty", str(path)
        elif coding == "index":
            index_labels(pixels, num_classes)
        elif coding == "colour":
            colour_labels(pixels, num_classes)
        elif pixels.max() == 1:
            yield "zero-one", f"{path} holds 0 and 1"
        else:
            binary_labels(pixels)
            if len(between := np.unique(pixels[(pixels > 0) & (pixels < 255)])):
                yield "grey", f"{path} holds values between 0 and 255, such as {between[0]}"
    except ValueError as error:
        yield "value", f"{path}: {error}"


def wrong_size(path: Path, found: tuple[int, int], expected: tuple[int, int]) -> str:
    return f"{path} is {found[0]} x {found[1]} (height x width); expected {expected[0]} x {expected[1]}"


def _extra_pictures(frames: tuple[Path, ...]) -> Iterator[Fault]:
    """A frame too many means another cut of the video; hidden files such as .DS_Store mean nothing."""
    folder, expected = frames[0].parent, {path.name for path in frames}
    shown = [path for path in folder.glob("*") if not path.name.startswith(".")]  # none where there is no folder
    pictures = {path.name for path in shown if path.suffix.lower() in (".png", ".jpg", ".jpeg")}
    if extra := sorted(pictures - expected):
        yield "extra", f"{folder} holds {len(extra)} pictures beside the {len(expected)} frames, such as {extra[0]}"
