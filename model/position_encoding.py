"""Sine position encoding of feature maps, as in DETR: a pure function of the map's size.

Letters: C channels, H W height and width.
"""

import math

import torch
from torch import Tensor


def sine_position_encoding(height: int, width: int, channels: int, device: torch.device | str | None = None) -> Tensor:
    """float32 [C, H, W], also under autocast: first half of the channels encodes y, second half x.

    A coordinate counts 1..n along its axis and is scaled to n / (n + 1e-6) * 2 pi at the far end; within
    each half, sine and cosine alternate and the wavelengths grow to 10000 * 2 pi. `channels` must be even.
    """
    if channels % 2:
        raise ValueError(f"a position encoding of {channels} channels cannot be halved into y and x")
    y_HC = _encode_axis(height, channels // 2, device)
    x_WC = _encode_axis(width, channels // 2, device)
    y = y_HC.T[:, :, None].expand(-1, -1, width)
    x = x_WC.T[:, None, :].expand(-1, height, -1)
    return torch.cat([y, x])


def _encode_axis(length: int, channels: int, device: torch.device | str | None) -> Tensor:
    """float32 [length, channels]."""
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    position = position / (length + 1e-6) * (2 * math.pi)
    pair = torch.arange(channels, dtype=torch.float32, device=device).div(2, rounding_mode="floor")
    angle = position[:, None] / 10000 ** (2 * pair / channels)
    is_even = torch.arange(channels, device=device) % 2 == 0
    return torch.where(is_even, angle.sin(), angle.cos())
