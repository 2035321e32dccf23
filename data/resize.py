"""Bringing AVSS frames and label maps of any size to one square size, as the published code prepares them."""

import numpy as np
from PIL import Image


def fit_crop(image: np.ndarray, size: int, nearest: bool) -> np.ndarray:
    """Scale the short side to `size` and cut the centre out: what AVSS training reads.

    image: uint8 [H, W, 3] or [H, W]. nearest: True for labels and Maskiges, False (bilinear) for frames.
    The long side is truncated to whole pixels; the offset of the cut is rounded half to even.
    Gives uint8 [size, size, 3] or [size, size].
    """
    height, width = image.shape[:2]
    short = min(height, width)
    resized = resize(image, (height * size // short, width * size // short), nearest)
    top, left = (round((n - size) / 2) for n in resized.shape[:2])
    return np.ascontiguousarray(resized[top : top + size, left : left + size])


def fit_squash(image: np.ndarray, size: int, nearest: bool) -> np.ndarray:
    """Scale both sides to `size`, whatever the aspect ratio: what AVSS validation and test read.

    Arguments and result are those of `fit_crop`.
    """
    return resize(image, (size, size), nearest)


def resize(image: np.ndarray, size: tuple[int, int], nearest: bool) -> np.ndarray:
    """One uint8 image [H, W, 3] or [H, W] at `size` = (height, width), by Pillow's nearest or bilinear.

    Bilinear means Pillow's: when shrinking, the filter widens with the scale, so that every pixel counts.
    """
    if image.dtype != np.uint8:
        raise ValueError(f"resizing needs uint8 images, not {image.dtype}")
    if image.shape[:2] == size:
        return image.copy()
    height, width = size
    filter_ = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    return np.array(Image.fromarray(image).resize((width, height), filter_))


def resize_window(
    image: np.ndarray, size: tuple[int, int], window: tuple[int, int, int, int], nearest: bool
) -> np.ndarray:
    """`resize`, and of that the window (top, left, height, width) alone: the same bytes in less time.

    Pillow enlarges along rows, then along columns, and rounds in between. So the first pass may leave out the rows
    that no pixel of the window comes from, and the second one the columns outside it.
    """
    top, left, height, width = window
    source_height, source_width = image.shape[:2]
    if nearest or window[2:] == size or size[0] < source_height or size[1] < source_width:
        return resize(image, size, nearest)[top : top + height, left : left + width]
    scale = source_height / size[0]
    first, end = max(0, int(top * scale) - 2), min(source_height, int((top + height) * scale) + 3)
    bilinear = Image.Resampling.BILINEAR
    rows = Image.fromarray(image[first:end]).resize((size[1], end - first), bilinear)
    # A crop beyond the picture's edges puts the rows back to their places.
    columns = rows.crop((left, -first, left + width, source_height - first))
    return np.array(columns.resize((width, size[0]), bilinear).crop((0, top, width, top + height)))
