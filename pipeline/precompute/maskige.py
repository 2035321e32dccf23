"""From the masks of generators, wherever they lie, to what a cache stores: no more than it takes, as Maskiges."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...data.masks import colour_index, fold_masks
from ...model.foundation.interface import Proposals

_ROWS = 1 << 26  # bytes of masks that are folded at once on a device


def limit_masks(proposals: Proposals, most: int) -> tuple[Proposals, int]:
    """Keep the `most` masks with the highest predicted IoU, of equal ones the first; their order stays.

    Gives the proposals and the number of masks dropped, 0 nearly always. Generators without an estimate of their own
    give 1 for all masks, so their first ones stay: for felzenszwalb the largest.
    """
    dropped = len(proposals.masks) - most
    if dropped <= 0:
        return proposals, 0
    best = proposals.predicted_iou.argsort(descending=True, stable=True)[:most]
    return proposals.pick(best.sort().values), dropped


def fold_and_colour(masks: Tensor) -> np.ndarray:
    """The Maskige of one frame: bool [K, H, W] on any device to uint8 [H, W, 3], as `data.masks.maskige` defines it."""
    return fold_and_colour_frames([masks])[0]


def fold_and_colour_frames(frames: Sequence[Tensor]) -> np.ndarray:
    """The Maskiges of F >= 1 frames of one size: bool [K, H, W] each, with their own K, to uint8 [F, H, W, 3].

    Masks on a device are folded there, and only one byte per pixel comes back, for all frames in one copy. On the CPU
    the masks are painted one after the other, which is several times faster there than any reduction over them.
    """
    if frames[0].device.type == "cpu":
        index_FHW = np.stack([fold_masks(masks.numpy()) for masks in frames])
    else:
        index_FHW = torch.stack([fold_on_device(masks) for masks in frames]).cpu().numpy()
    return colour_index(index_FHW)


def fold_on_device(masks: Tensor) -> Tensor:
    """`data.masks.fold_masks` in a few large steps, none of which waits for the device: uint8 [H, W] where `masks` is.

    masks: bool [K, H, W]. The smallest mask that covers a pixel is the one with the highest of the numbers K..1.
    """
    k, height, width = masks.shape
    if k == 0:
        return torch.zeros((height, width), dtype=torch.uint8, device=masks.device)
    ascending = masks.sum((1, 2)).argsort(stable=True)
    number_K = torch.empty(k, dtype=torch.int32, device=masks.device)
    number_K[ascending] = torch.arange(k, 0, -1, dtype=torch.int32, device=masks.device)
    slices = masks.split(max(1, _ROWS // (k * width)), dim=1)
    top_HW = torch.cat([(part * number_K[:, None, None]).amax(0) for part in slices])
    return torch.where(top_HW > 0, k + 1 - top_HW, 0).clamp(max=255).to(torch.uint8)
