"""Resizing with the bytes of Pillow up to 11, whichever Pillow is installed: `data/` and `model/` both need it."""

import math

import numpy as np
from PIL import Image

FRACTION_BITS = 22  # of Pillow's integer weights for 8-bit images


def resize_image(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """`image.resize` to `size` = (height, width), the width first and then the height.

    The order shows, since bytes are rounded in between. It is that of Pillow up to 11, with which the published frames
    were made; later ones begin with the height where that is less work, such as for pictures taller than wide.
    """
    return image.resize((size[1], image.height), resample).resize((size[1], size[0]), resample)


def bilinear_taps(old: int, new: int, window: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Which of `old` pixels each of `new` pixels reads, along one axis, and with what weight.

    window: of the new pixels, those wanted. When shrinking the filter widens, so that every old pixel counts; when
    enlarging, each new pixel has 2 taps. Returns int64 [taps, pixels], 0..old - 1, and int32 [taps, pixels], whose sum
    over the taps is 1 << FRACTION_BITS but for rounding.
    """
    scale = old / new
    support = max(scale, 1.0)  # of the triangle
    centres = (np.arange(new)[window] + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    after = np.minimum((centres + support + 0.5).astype(np.int64), old)
    taps = 2 if scale <= 1 else math.ceil(support) * 2 + 1
    pixels = first + np.arange(taps)[:, None]
    weights = np.maximum(1 - np.abs((pixels - centres + 0.5) * (1 / support)), 0) * (pixels < after)
    weights /= weights.sum(0)
    return np.minimum(pixels, old - 1), (weights * (1 << FRACTION_BITS) + 0.5).astype(np.int32)
