"""NumPy arrays of the store as tensors on a device."""

import numpy as np
import torch
from torch import Tensor

from ...model.transfer import to_device


def tensor_on(array: np.ndarray, device: torch.device) -> Tensor:
    """The same type and shape on `device`."""
    return to_device(torch.from_numpy(array), device)


def image_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [B, H, W, 3] as uint8 [B, 3, H, W] on `device`: channels last in memory, which convolutions like."""
    return tensor_on(images, device).permute(0, 3, 1, 2)
