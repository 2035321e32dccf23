"""Which device a job runs on, and NumPy arrays of the store as tensors on it."""

import os
import platform
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...errors import BadInput
from ...model.transfer import to_device


def pick_device(name: str) -> torch.device:
    """`auto` is cuda when there is one, else cpu. Raises `BadInput` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise BadInput(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def worker_device(name: str, worker: str) -> torch.device:
    """The device of one of several workers on a machine: worker n takes GPU n modulo their number.

    worker: its name, which ends in its number for workers that we start, and for those of `dask worker --nworkers`.
    One that is only called by its address has no number, and takes the first GPU that it sees.
    """
    device = pick_device(name)
    number = None if "://" in worker else re.search(r"\d+$", worker)
    if device.type != "cuda" or device.index is not None or number is None:
        return device
    return torch.device("cuda", int(number.group()) % torch.cuda.device_count())


def device_count(name: str) -> int:
    """How many workers this machine can take: one per GPU, or one per core without any."""
    device = pick_device(name)
    if device.type != "cuda":
        return os.cpu_count() or 1
    return torch.cuda.device_count() if device.index is None else 1


def device_name(device: torch.device) -> str:
    """The name of the hardware, for logs."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return _cpu_name() if device.type == "cpu" else str(device)


def _cpu_name() -> str:
    try:  # Linux: what `platform` does not say there
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def tensor_on(array: np.ndarray, device: torch.device) -> Tensor:
    """The same type and shape on `device`."""
    return to_device(torch.from_numpy(array), device)


def image_tensor(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [B, H, W, 3] as uint8 [B, 3, H, W] on `device`: channels last in memory, which convolutions like."""
    return tensor_on(images, device).permute(0, 3, 1, 2)
