"""Frames to the size SAM's encoder wants, and SAM's low-resolution logits back to the size of the frame.

Both reproduce the published steps: Pillow's bilinear filter, bit by bit, on any device; and two of torch's bilinear
steps with a crop between them, composed into one linear map per axis.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...resampling import FRACTION_BITS, bilinear_taps
from .products import linear

SIDE = 1024  # of the encoder's input: the long side of a resized frame
LOW = 256  # side of the decoder's logits


def encoder_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a frame once its long side is 1024 pixels; at least 1 each."""
    scale = SIDE / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def pillow_resize(frames_BHWC: Tensor, size: tuple[int, int]) -> Tensor:
    """`resampling.resize_image` with the bilinear filter, bit by bit: weights of 22 bits, rounded after each axis.

    frames_BHWC: uint8 [B, H, W, C]. size: new height and width. Returns uint8 [B, C, height, width].
    """
    planes = frames_BHWC.permute(0, 3, 1, 2).to(torch.int32)
    return _resize_axis(_resize_axis(planes, 3, size[1]), 2, size[0]).to(torch.uint8)


def _resize_axis(planes: Tensor, axis: int, new: int) -> Tensor:
    """int32 values 0..255, resized along one axis and rounded."""
    if planes.shape[axis] == new:
        return planes
    pixels, weights = (torch.from_numpy(taps).to(planes.device) for taps in bilinear_taps(planes.shape[axis], new))
    shape = [-1 if a == axis else 1 for a in range(planes.ndim)]
    total = torch.full((), 1 << (FRACTION_BITS - 1), dtype=torch.int32, device=planes.device)  # rounds to the nearest
    for pixel, weight in zip(pixels, weights, strict=True):
        total = total + planes.index_select(axis, pixel) * weight.view(shape)
    return (total >> FRACTION_BITS).clamp_(0, 255)


def logit_maps(height: int, width: int) -> tuple[Tensor, Tensor]:
    """How rows and columns of a frame are made from rows and columns of the low-resolution logits.

    Published: 256 -> 1024, crop of the padding, -> frame, both bilinear. Each step is linear and separable, so pushing
    the unit vectors through them gives matrices, float32 [H, R] and [W, S], on the CPU: logits of the frame are
    rows @ logits[:R, :S] @ columns.T. R and S leave out what lies in the padding, and are multiples of 4.
    """
    inner_height, inner_width = encoder_size(height, width)
    return _axis_map(inner_height, height), _axis_map(inner_width, width)


def _axis_map(inner: int, frame: int) -> Tensor:
    weights = _resized(_resized(_units(LOW), SIDE)[:, :, :inner], frame)[:, 0, :, 0]
    last = int(weights.any(1).nonzero().max())
    return weights[: (last // 4 + 1) * 4].T.contiguous()


def resize_map(low: int, frame: int) -> Tensor:
    """Bilinear resizing of one axis as a matrix, float32 [frame, low]: its columns are the resized unit vectors."""
    return _resized(_units(low), frame)[:, 0, :, 0].T.contiguous()


def _units(size: int) -> Tensor:
    return torch.eye(size)[:, None, :, None]  # `size` images of `size` x 1 pixels


def _resized(images: Tensor, height: int) -> Tensor:
    return F.interpolate(images, size=(height, 1), mode="bilinear", align_corners=False)


def resize_logits(logits_KRS: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Low-resolution logits, float [K, R, S], by the two maps of `logit_maps`: float32 [K, H, W]."""
    tall_KSH = linear(logits_KRS.float().transpose(1, 2), rows)
    return linear(tall_KSH.transpose(1, 2), columns)
