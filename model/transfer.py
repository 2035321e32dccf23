"""From host to device without waiting."""

import torch
from torch import Tensor


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """`x` on a device; the host goes on at once, whatever the device is doing."""
    if x.device.type == "cpu" and device.type == "cuda":
        x = x.pin_memory()  # a copy from ordinary memory waits
    return x.to(device, non_blocking=True)
