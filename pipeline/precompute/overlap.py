"""How much masks of two stacks overlap."""

import torch
from torch import Tensor

_PIXELS = 1 << 16  # at once: a float copy of a slice stays small


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every mask of `a` with every mask of `b`.

    a: bool [K, H, W]; b: bool [L, H, W], on the same device. Gives float64 [K, L]; 0 where both masks are empty.
    """
    a_KP, b_LP = a.flatten(1), b.flatten(1)
    both_KL = torch.zeros((len(a), len(b)), dtype=torch.int64, device=a.device)
    for first in range(0, a_KP.shape[1], _PIXELS):
        part = slice(first, first + _PIXELS)
        both_KL += (a_KP[:, part].float() @ b_LP[:, part].float().T).long()  # sums of ones below 2 ** 24 are exact
    either_KL = a_KP.sum(1)[:, None] + b_LP.sum(1) - both_KL
    return both_KL.double() / either_KL.clamp(min=1)
