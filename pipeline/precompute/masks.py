"""Masks of generators, wherever they lie: limit, pack, fold into Maskiges, and measure overlap.

Folded as published, the colour of a mask is its rank by area within its own frame, so an object changes colour whenever
another grows past it. With `temporal` masks of successive frames are matched by overlap, and colours go to objects.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ...data.masks import ascending_areas, colour_index, fold_masks, pack_masks, pack_stats, paint
from ...model.foundation.interface import Proposals

SAME_OBJECT = 0.5  # IoU from which on two masks can be of one object
_BYTES = 1 << 26  # of masks that are folded at once on a device
_PIXELS = 1 << 16  # at once, for overlaps: a float copy of a slice stays small


def limit_masks(proposals: Proposals, most: int) -> tuple[Proposals, int]:
    """Keep the `most` masks with the highest predicted IoU, of equal ones the first; their order stays.

    Returns the proposals and the number of masks dropped, 0 nearly always. Generators that predict no IoU set it to 1
    for all masks, so their first ones stay: for felzenszwalb the largest.
    """
    dropped = len(proposals.masks) - most
    if dropped <= 0:
        return proposals, 0
    best = proposals.predicted_iou.argsort(descending=True, stable=True)[:most]
    return proposals.pick(best.sort().values), dropped


def maskiges(frames: Sequence[Tensor], *, temporal: bool = False) -> np.ndarray:
    """The Maskiges of F >= 1 frames of one size: bool [K, H, W] each, with their own K, to uint8 [F, H, W, 3].

    temporal: the frames are those of one clip, and objects keep their colour. Colours go to the objects in most frames
    first, of these to the smallest first, since ADE20K names no more than 149; objects beyond the 255th share the last.
    Within a frame smaller masks are on top either way.
    Masks on a device are folded there, and only one byte per pixel comes back, for all frames in one copy. On the CPU
    the masks are painted one after the other, which is several times faster there than any reduction over them.
    """
    if temporal:
        arrays = [masks.cpu().numpy() for masks in frames]
        colours = _palette_indices(arrays, track_objects(frames))
        index_FHW = np.stack([paint(m, ascending_areas(m), i) for m, i in zip(arrays, colours, strict=True)])
    elif frames[0].device.type == "cpu":
        index_FHW = np.stack([fold_masks(masks.numpy()) for masks in frames])
    else:
        index_FHW = torch.stack([fold_on_device(masks) for masks in frames]).cpu().numpy()
    return colour_index(index_FHW)


def proposal_rows(found: list[Proposals], *, temporal: bool = False) -> dict[str, np.ndarray]:
    """The rows of a proposals cache, [F, ...], for the proposals of F frames; with `temporal`, those of one clip."""
    on_cpu = [p.to("cpu") for p in found]
    columns = [(p.areas, p.boxes, p.predicted_iou, p.stability, p.points) for p in on_cpu]
    return {
        "maskige": maskiges([p.masks for p in found], temporal=temporal),
        "masks": np.array([pack_masks(p.masks.numpy()) for p in on_cpu], object),
        "mask_stats": np.array([pack_stats(*(x.numpy() for x in of_frame)) for of_frame in columns], object),
        "mask_count": np.array([len(p.masks) for p in on_cpu], np.uint16),
    }


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
    slices = masks.split(max(1, _BYTES // (k * width)), dim=1)
    top_HW = torch.cat([(part * number_K[:, None, None]).amax(0) for part in slices])
    return torch.where(top_HW > 0, k + 1 - top_HW, 0).clamp(max=255).to(torch.uint8)


def track_objects(clip: Sequence[Tensor]) -> list[np.ndarray]:
    """Number the objects of a clip: for each frame int64 [K], the object that each mask shows, counted from 0.

    The masks of a frame are assigned one to one to the objects so far, each as it was when last seen, so that the sum
    of their IoU is greatest; a mask that shares less than `SAME_OBJECT` with its object, or has none, is a new one.
    Only overlap counts: something that moves by more than its own size between two frames is a new object.
    """
    last_seen = clip[0][:0]  # bool [O, H, W], of all objects so far
    numbers = []
    for masks in clip:
        iou = mask_iou(masks, last_seen).cpu().numpy()
        mask, known = linear_sum_assignment(iou, maximize=True)
        same = iou[mask, known] >= SAME_OBJECT
        objects = np.full(len(masks), -1)
        objects[mask[same]] = known[same]
        new = objects < 0
        objects[new] = len(last_seen) + np.arange(new.sum())
        last_seen = torch.cat([last_seen, masks[torch.from_numpy(new).to(masks.device)]])
        last_seen[torch.from_numpy(objects).to(masks.device)] = masks
        numbers.append(objects)
    return numbers


def _palette_indices(masks: list[np.ndarray], objects: list[np.ndarray]) -> list[np.ndarray]:
    """The palette index of every mask, int64 [K] per frame."""
    every = np.concatenate(objects)
    areas = np.concatenate([m.sum((1, 2)) for m in masks])
    frames = np.bincount(every)
    mean_area = np.bincount(every, weights=areas) / frames
    first_come = np.lexsort((mean_area, -frames))  # equal ones in the order of their numbers
    index = np.empty(len(frames), np.int64)
    index[first_come] = np.minimum(np.arange(1, len(frames) + 1), 255)
    return [index[o] for o in objects]


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every mask of `a` with every mask of `b`.

    a: bool [K, H, W]; b: bool [L, H, W], on the same device. Returns float64 [K, L]; 0 where both masks are empty.
    """
    a_KP, b_LP = a.flatten(1), b.flatten(1)
    both_KL = torch.zeros((len(a), len(b)), dtype=torch.int64, device=a.device)
    for first in range(0, a_KP.shape[1], _PIXELS):
        part = slice(first, first + _PIXELS)
        both_KL += (a_KP[:, part].float() @ b_LP[:, part].float().T).long()  # sums of ones below 2 ** 24 are exact
    either_KL = a_KP.sum(1)[:, None] + b_LP.sum(1) - both_KL
    return both_KL.double() / either_KL.clamp(min=1)
