"""Masks of one frame from a file of another program: NumPy arrays, COCO run lengths, label maps. No pickles.

K masks of one frame, H W pixels. docs/mask-format.md is the specification.
"""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ..images import open_image

SUFFIXES = (".npz", ".npy", ".json", ".png")
MAX_MASKS = 4096  # per frame
MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True)
class FrameMasks:
    """With scores of 1, and the first pixel of each mask as its point, where the file has none."""

    masks: np.ndarray  # bool [K, H, W]
    predicted_iou: np.ndarray  # float32 [K]
    stability: np.ndarray  # float32 [K]
    points: np.ndarray  # float32 [K, 2], x and y in pixels

    @classmethod
    def none(cls, size: tuple[int, int]) -> "FrameMasks":
        """The masks of a frame that has none, (H, W) pixels."""
        return _frame_masks(np.zeros((0, *size), bool), size)


def read_masks(path: Path, size: tuple[int, int]) -> FrameMasks:
    """Read a file of one of `SUFFIXES`. size: (H, W) that the masks must have.

    Raises ValueError that names the file and what is wrong with it.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        return _READERS[path.suffix](path, size)
    except Exception as error:  # whatever NumPy, zipfile, json and PIL raise for a broken file
        text = str(error) or type(error).__name__
        raise ValueError(text if str(path) in text else f"{path}: {text}") from error


def _read_npy(path: Path, size: tuple[int, int]) -> FrameMasks:
    with path.open("rb") as file:
        return _frame_masks(_read_array(file, path.stat().st_size, size), size)


def _read_npz(path: Path, size: tuple[int, int]) -> FrameMasks:
    with zipfile.ZipFile(path) as archive:
        names = {name.removesuffix(".npy"): name for name in archive.namelist()}
        if "masks" not in names:
            raise ValueError(f"it has arrays {sorted(names)}, but none called masks")
        arrays = {}
        for key in names.keys() & {"masks", "predicted_iou", "stability", "points"}:
            with archive.open(names[key]) as file:
                arrays[key] = _read_array(file, archive.getinfo(names[key]).file_size, size)
    return _frame_masks(arrays.pop("masks"), size, **arrays)


def _read_array(file: IO[bytes], size_in_bytes: int, size: tuple[int, int]) -> np.ndarray:
    if size_in_bytes > MAX_MASKS * size[0] * size[1] * 8 + 4096:
        raise ValueError(f"an array of {size_in_bytes} bytes is larger than {MAX_MASKS} masks of {size[0]} x {size[1]}")
    return np.lib.format.read_array(file, allow_pickle=False)


def _read_json(path: Path, size: tuple[int, int]) -> FrameMasks:
    records = json.loads(path.read_text())
    if not isinstance(records, list):
        raise ValueError('expected a list of masks, each {"segmentation": {"size": [H, W], "counts": ...}, ...}')
    _check_count(len(records))
    masks = np.zeros((len(records), *size), bool)
    for k, record in enumerate(records):
        rle = record["segmentation"]
        if tuple(rle["size"]) != size:
            raise ValueError(f"mask {k} is {tuple(rle['size'])} (height, width); the frames are {size}")
        masks[k] = decode_rle(rle["counts"], size)
    common = set.intersection(*map(set, records)) if records else set()  # keys that every record has
    scores = {"predicted_iou": "predicted_iou", "stability": "stability_score"}
    columns = {ours: np.array([r[key] for r in records]) for ours, key in scores.items() if key in common}
    if "point_coords" in common:
        columns["points"] = np.array([r["point_coords"][0] for r in records])
    return _frame_masks(masks, size, **columns)


def _read_png(path: Path, size: tuple[int, int]) -> FrameMasks:
    with open_image(path) as image:
        if image.mode not in ("L", "P", "1", "I;16", "I"):
            raise ValueError(f"image mode {image.mode}; label maps have one channel of 8 or 16 bits")
        labels = np.asarray(image).astype(np.int64)
    values = np.unique(labels[labels > 0])
    _check_count(len(values))
    return _frame_masks(labels == values[:, None, None], size)


_READERS = {".npy": _read_npy, ".npz": _read_npz, ".json": _read_json, ".png": _read_png}


def decode_rle(counts: str | list[int], size: tuple[int, int]) -> np.ndarray:
    """A COCO run-length mask, bool [H, W]: runs of 0 and 1 in turn, column by column, the first of 0.

    counts: the runs, or COCO's text for them. Raises ValueError when they do not fill the mask exactly.
    """
    runs = _runs_of_text(counts) if isinstance(counts, str) else [int(c) for c in counts]
    height, width = size
    if any(r < 0 for r in runs) or sum(runs) != height * width:
        raise ValueError(f"run lengths of {sum(runs)} pixels do not fill a mask of {height} x {width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _runs_of_text(text: str) -> list[int]:
    """COCO's text: 5 bits a character from "0" on, bit 6 says that more follow; from the fourth run on differences."""
    runs: list[int] = []
    value = shift = 0
    for character in text.encode("ascii"):
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("this is no run-length text of COCO")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the run-length text ends within a number")
    return runs


def _check_count(count: int) -> None:
    if count > MAX_MASKS:
        raise ValueError(f"{count} masks; {MAX_MASKS} per frame are the limit")


def _frame_masks(masks: np.ndarray, size: tuple[int, int], **columns: np.ndarray) -> FrameMasks:
    if masks.ndim != 3 or masks.shape[1:] != size or masks.dtype.kind not in "bui":
        due = f"bool or integer (K, {size[0]}, {size[1]})"
        raise ValueError(f"masks are {masks.dtype} {masks.shape}; they must be {due}")
    _check_count(len(masks))
    masks = masks.astype(bool)
    k = len(masks)
    first = masks.reshape(k, size[0] * size[1]).argmax(1)
    points = np.stack([first % size[1], first // size[1]], axis=1)
    defaults = {"predicted_iou": np.ones(k), "stability": np.ones(k), "points": points}
    values = {name: np.asarray(columns.get(name, default), np.float32) for name, default in defaults.items()}
    for name, value in values.items():
        due = defaults[name].shape
        if value.shape != due or not np.isfinite(value).all():
            raise ValueError(f"{name} has shape {value.shape} or values that are not finite; {due} is due")
    return FrameMasks(masks, **values)
