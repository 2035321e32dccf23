"""Maskiges in which an object keeps its colour through a clip: an option, off by default.

As published, the colour of a mask is its rank by area within its own frame, so one object changes colour whenever
another grows past it. Here masks of successive frames are matched by overlap first, and colours go to objects.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ...data.masks import ascending_areas, colour_index, paint
from .overlap import mask_iou

SAME_OBJECT = 0.5  # IoU from which on two masks can be of one object


def temporal_maskiges(clip: Sequence[Tensor]) -> np.ndarray:
    """The Maskiges of the T frames of one clip: bool [K, H, W] each, with their own K, to uint8 [T, H, W, 3].

    Within a frame smaller masks lie on top, as published; only the colours differ. They are given to the objects that
    are in most frames first, of these to the smallest first, since ADE20K names no more than 149; objects beyond the
    255th share the last colour.
    """
    masks = [frame.cpu().numpy() for frame in clip]
    index = _palette_indices(masks, follow(clip))
    return np.stack([colour_index(paint(m, ascending_areas(m), i)) for m, i in zip(masks, index, strict=True)])


def follow(clip: Sequence[Tensor]) -> list[np.ndarray]:
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
