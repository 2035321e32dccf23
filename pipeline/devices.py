"""Which device a job runs on."""

import torch

from ..errors import BadInput


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
