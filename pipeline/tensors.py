"""NumPy arrays of the store as tensors on a device."""

import numpy as np
import torch
from torch import Tensor


def image_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [B, H, W, 3] as uint8 [B, 3, H, W] on `device`."""
    return torch.from_numpy(images).to(device, non_blocking=True).permute(0, 3, 1, 2)
