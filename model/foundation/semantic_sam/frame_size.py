"""Frames at another size than their own, and masks back again.

Letters: B frames, K masks, H W height and width.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ....resampling import resize_image


def with_short_edge(frames_BHW3: Tensor, short_edge: int) -> Tensor:
    """uint8 frames, resized as the package's image loader does: Pillow's bicubic filter, the long edge rounded down."""
    height, width = frames_BHW3.shape[1:3]
    short, long = sorted((height, width))
    new_long = int(short_edge * long / short)
    size = (short_edge, new_long) if width > height else (new_long, short_edge)
    images = [Image.fromarray(frame) for frame in frames_BHW3.cpu().numpy()]
    resized = [resize_image(image, size, Image.Resampling.BICUBIC) for image in images]
    return torch.from_numpy(np.stack([np.asarray(image) for image in resized])).to(frames_BHW3.device)


def nearest(masks_KHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks at `size`, height and width, by Pillow's nearest filter."""
    rows, columns = (
        torch.from_numpy(_nearest_pixels(old, new)).to(masks_KHW.device)
        for old, new in zip(masks_KHW.shape[1:], size, strict=True)
    )
    return masks_KHW[:, rows[:, None], columns]


def _nearest_pixels(old: int, new: int) -> np.ndarray:
    """int64 [new]: which old pixel each new one reads. Asked of Pillow itself, which rounds in its own way."""
    pixels = Image.fromarray(np.arange(old, dtype=np.int32)[None])
    return np.array(pixels.resize((new, 1), Image.Resampling.NEAREST), dtype=np.int64)[0]
