"""Copies from host to device that do not block."""

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on a device, without waiting for the device."""
    if x.device.type == "cpu" and device.type == "cuda":
        x = x.pin_memory()  # copies of pageable memory block
    return x.to(device, non_blocking=True)
