"""Mask arithmetic: pack, unpack, fold a stack of masks into one index map, colour it into a Maskige.

Pure functions on arrays. Letters: K masks of one frame (K may be 0), H W pixels.
"""

import numpy as np

from .palette import PALETTE

# Stored of each mask; 36 bytes. Fields as in `Proposals`: pixels; x0 y0 x1 y1, both ends inside; the generator's
# scores; x y of the prompt or of a point inside.
MASK_STATS = np.dtype(
    [("area", "<u4"), ("box", "<i4", (4,)), ("predicted_iou", "<f4"), ("stability", "<f4"), ("point", "<f4", (2,))]
)


def _checked(masks: np.ndarray) -> np.ndarray:
    if masks.dtype != np.bool_ or masks.ndim != 3:
        raise ValueError(f"masks are bool [K, H, W], not {masks.dtype} {masks.shape}")
    return masks


def pack_masks(masks: np.ndarray) -> bytes:
    """One bit per pixel, in C order, the first pixel in a byte's highest bit; each mask starts on a new byte.

    masks: bool [K, H, W]. Returns K * ceil(H * W / 8) bytes. Raises ValueError for another dtype or shape.
    """
    k, height, width = _checked(masks).shape
    return np.packbits(masks.reshape(k, height * width), axis=1).tobytes()


def unpack_masks(data: bytes, height: int, width: int) -> np.ndarray:
    """The inverse of `pack_masks`: bool [K, H, W], with K from the length of `data`.

    Raises ValueError if `data` is not a whole number of masks of this size.
    """
    if height < 1 or width < 1:
        raise ValueError(f"masks of {height} x {width} pixels have no bits")
    row = -(-height * width // 8)
    if len(data) % row:
        raise ValueError(f"{len(data)} bytes are not a whole number of {height} x {width} masks, {row} bytes each")
    packed = np.frombuffer(data, np.uint8).reshape(-1, row)
    return np.unpackbits(packed, axis=1, count=height * width).view(np.bool_).reshape(-1, height, width)


def pack_stats(
    area: np.ndarray, box: np.ndarray, predicted_iou: np.ndarray, stability: np.ndarray, point: np.ndarray
) -> bytes:
    """K records of `MASK_STATS`, from [K], [K, 4], [K], [K], [K, 2]. ValueError if the lengths differ."""
    lengths = {len(column) for column in (area, box, predicted_iou, stability, point)}
    if len(lengths) != 1:
        raise ValueError(f"the columns of the mask statistics differ in length: {sorted(lengths)}")
    records = np.zeros(len(area), MASK_STATS)
    records["area"], records["box"], records["point"] = area, box, point
    records["predicted_iou"], records["stability"] = predicted_iou, stability
    return records.tobytes()


def unpack_stats(data: bytes) -> np.ndarray:
    """The inverse of `pack_stats`: `MASK_STATS` [K]. ValueError for anything but whole records."""
    if len(data) % MASK_STATS.itemsize:
        raise ValueError(f"{len(data)} bytes are not a whole number of {MASK_STATS.itemsize}-byte mask records")
    return np.frombuffer(data, MASK_STATS)


def fold_masks(masks: np.ndarray) -> np.ndarray:
    """Fold bool [K, H, W] into one map of palette indices, uint8 [H, W], the smallest mask on top (COMBO, section 3.1).

    Masks are ranked by area, smallest first, equal areas in their given order. A pixel takes the rank, from 1, of the
    smallest mask that covers it; 0 where there is none; ranks above 255 are 255. Hidden and empty masks have ranks too.
    The published sort is not stable: its order of equal areas depends on the NumPy build.
    Raises ValueError for another dtype or shape.
    """
    ascending = ascending_areas(masks)
    ranks = np.empty(len(masks), np.int64)
    ranks[ascending] = np.arange(1, len(masks) + 1)
    return paint(masks, ascending, np.minimum(ranks, 255))


def ascending_areas(masks: np.ndarray) -> np.ndarray:
    """The order of masks by area, smallest first, equal areas as given: bool [K, H, W] to int64 [K]."""
    return np.argsort([np.count_nonzero(mask) for mask in _checked(masks)], kind="stable")


def paint(masks: np.ndarray, on_top: np.ndarray, index: np.ndarray) -> np.ndarray:
    """One map of palette indices: each mask filled with its own, those first in `on_top` over the others.

    masks: bool [K, H, W]. on_top: int [K], an order of the masks. index: int [K], 0..255, in the order of `masks`.
    Returns uint8 [H, W], 0 where no mask is.
    """
    painted = np.zeros(masks.shape[1:], np.uint8)
    for mask in on_top[::-1]:
        np.copyto(painted, np.uint8(index[mask]), where=masks[mask])
    return painted


def colour_index(index: np.ndarray) -> np.ndarray:
    """Look palette indices up in `PALETTE`: uint8 [...] to uint8 [..., 3], RGB."""
    return np.take(PALETTE, index, axis=0)
