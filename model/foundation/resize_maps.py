"""Frames to the size SAM's encoder wants, and SAM's low-resolution logits back to the size of the frame.

Both ways reproduce the published steps: Pillow's bilinear filter, bit by bit, on any device; and two of torch's
bilinear steps with a crop between them, composed into one linear map per axis.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .products import linear

SIDE = 1024  # what the long side of a frame is brought to before the encoder
LOW = 256  # side of the decoder's logits
FRACTION_BITS = 22  # of Pillow's integer weights


def encoder_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a frame once its long side is 1024 pixels; at least 1 each."""
    scale = SIDE / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def pillow_resize(frames_BHWC: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as Pillow's bilinear filter does, bit by bit: weights of 22 bits, rounded to uint8 after each axis.

    For frames that keep their shape: one side made larger and the other smaller, Pillow may begin with the other axis.

    frames_BHWC: uint8 [B, H, W, C]. size: new height and width. Gives uint8 [B, C, height, width].
    """
    planes = frames_BHWC.permute(0, 3, 1, 2).to(torch.int32)
    return _resize_axis(_resize_axis(planes, 3, size[1]), 2, size[0]).to(torch.uint8)


def _resize_axis(planes: Tensor, axis: int, new: int) -> Tensor:
    """int32 values 0..255, resized along one axis and rounded."""
    if planes.shape[axis] == new:
        return planes
    places, weights = _pillow_taps(planes.shape[axis], new)
    shape = [-1 if a == axis else 1 for a in range(planes.ndim)]
    total: Tensor | int = 1 << (FRACTION_BITS - 1)
    for place, weight in zip(places, weights, strict=True):
        read = planes.index_select(axis, torch.from_numpy(place).to(planes.device))
        total = total + read * torch.from_numpy(weight).to(planes.device).view(shape)
    return (total >> FRACTION_BITS).clamp_(0, 255)


def _pillow_taps(old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each new pixel reads and how much that counts: int64 [taps, new] and int32 [taps, new]."""
    scale = old / new
    support = max(scale, 1.0)  # of the triangle; wider when shrinking, so that every old pixel counts
    centres = (np.arange(new) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    after = np.minimum((centres + support + 0.5).astype(np.int64), old)
    places = first + np.arange(math.ceil(support) * 2 + 1)[:, None]
    weights = np.maximum(1 - np.abs((places - centres + 0.5) * (1 / support)), 0) * (places < after)
    weights /= weights.sum(0)
    return np.minimum(places, old - 1), (weights * (1 << FRACTION_BITS) + 0.5).astype(np.int32)


def logit_maps(height: int, width: int) -> tuple[Tensor, Tensor]:
    """How rows and columns of a frame are made from rows and columns of the low-resolution logits.

    Published: 256 -> 1024, crop of the padding, -> frame, both bilinear. Each step is linear and separable, so pushing
    the unit vectors through them gives matrices, float32 [H, R] and [W, S], on the CPU: logits of the frame are
    rows @ logits[:R, :S] @ columns.T. R and S leave out what lies in the padding, and are multiples of 4.
    """
    inner_height, inner_width = encoder_size(height, width)
    return _axis_map(inner_height, height), _axis_map(inner_width, width)


def _axis_map(inner: int, frame: int) -> Tensor:
    units = torch.eye(LOW)[:, None, :, None]  # 256 images of 256 x 1 pixels
    upscaled = F.interpolate(units, size=(SIDE, 1), mode="bilinear", align_corners=False)[:, :, :inner]
    weights = F.interpolate(upscaled, size=(frame, 1), mode="bilinear", align_corners=False)[:, 0, :, 0]
    last = int(weights.any(1).nonzero().max())
    return weights[: (last // 4 + 1) * 4].T.contiguous()


def resize_logits(logits_KRS: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Low-resolution logits, float [K, R, S], by the two maps of `logit_maps`: float32 [K, H, W]."""
    tall_KSH = linear(logits_KRS.float().transpose(1, 2), rows)
    return linear(tall_KSH.transpose(1, 2), columns)
