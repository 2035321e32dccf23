"""Resizing as the published code does it: AVSS pictures of any size to one square size, and windows for training."""

from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ..resampling import FRACTION_BITS, bilinear_taps, resize_image


def fit_crop(image: np.ndarray, size: int, *, nearest: bool) -> np.ndarray:
    """Scale the short side to `size` and cut the centre out: what AVSS training reads.

    image: uint8 [H, W, 3] or [H, W]. nearest: for labels and Maskiges. Returns uint8 [size, size, 3] or [size, size].
    The long side is truncated to whole pixels; the offset of the cut is rounded half to even.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    resized = resize(image, (height * size // short, width * size // short), nearest=nearest)
    top, left = (round((n - size) / 2) for n in resized.shape[:2])
    return np.ascontiguousarray(resized[top : top + size, left : left + size])


def fit_squash(image: np.ndarray, size: int, *, nearest: bool) -> np.ndarray:
    """Scale both sides to `size`, as `fit_crop` takes them: what AVSS validation and test read."""
    return resize(image, (size, size), nearest=nearest)


def resize(image: np.ndarray, size: tuple[int, int], *, nearest: bool) -> np.ndarray:
    """One uint8 image [H, W, 3] or [H, W] at `size` = (height, width), by Pillow's nearest or bilinear.

    Pillow's bilinear filter widens with the scale when shrinking, so that every pixel counts. See `resize_image`.
    """
    if image.dtype != np.uint8:
        raise ValueError(f"resizing needs uint8 images, not {image.dtype}")
    if image.shape[:2] == size:
        return image.copy()
    filter_ = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.array(resize_image(Image.fromarray(image), size, filter_))


def resize_window(
    image: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int], *, nearest: bool
) -> np.ndarray:
    """`resize`, and of that the window (top, left, height, width) alone: the same bytes in less than half the time.

    Where nothing is resized, the result is a view of `image`.
    """
    top, left, height, width = window
    if image.shape[:2] == size:
        return image[top : top + height, left : left + width]
    if nearest or size[0] < image.shape[0] or size[1] < image.shape[1]:
        return resize(image, size, nearest=nearest)[top : top + height, left : left + width]
    # The width, then the height, and rounded in between, as `resize_image`, but nothing outside the window.
    rows = _Blend.of(image.shape[0], size[0], top, height)
    columns = _Blend.of(image.shape[1], size[1], left, width)
    needed = cv2.transpose(image[rows.low[0] : rows.high[-1] + 1])
    return rows.apply(cv2.transpose(columns.apply(needed)), offset=int(rows.low[0]))


_BAND = 64  # rows at a time, so that what is in between stays in the processor's cache


class _Blend(NamedTuple):
    """Each row of a larger picture as a weighted sum of two rows of a smaller one."""

    low: np.ndarray  # int [rows], places in the smaller picture
    high: np.ndarray  # int [rows]
    low_weight: np.ndarray  # int32 [rows, 1], sums to 1 << FRACTION_BITS with that of `high`, but for rounding
    high_weight: np.ndarray

    @staticmethod
    @lru_cache(maxsize=256)
    def of(source: int, target: int, start: int, count: int) -> "_Blend":
        """For `count` rows from `start` on, of `target` that `source` rows become."""
        (low, high), (low_weight, high_weight) = bilinear_taps(source, target, slice(start, start + count))
        return _Blend(low, high, low_weight[:, None], high_weight[:, None])

    def apply(self, image: np.ndarray, offset: int = 0) -> np.ndarray:
        """uint8 [H, ...], whose first row is row `offset` of the smaller picture, to [rows, ...]."""
        flat = image.reshape(len(image), -1)
        out = np.empty((len(self.low), flat.shape[1]), np.uint8)
        for start in range(0, len(out), _BAND):
            low, high, low_weight, high_weight = (part[start : start + _BAND] for part in self)
            total = flat[low - offset] * low_weight
            total += flat[high - offset] * high_weight
            total += 1 << (FRACTION_BITS - 1)
            np.right_shift(total, FRACTION_BITS, out=out[start : start + _BAND], casting="unsafe")
        return out.reshape(-1, *image.shape[1:])
