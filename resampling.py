"""The weights of Pillow's bilinear filter, which `data/` and `model/` both reproduce to the bit."""

import math

import numpy as np

FRACTION_BITS = 22  # of Pillow's integer weights for 8-bit images


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
