"""What "segment everything" generators do with rendered masks: score, box, suppress, clean. Pure functions.

Letters: K masks, H W pixels. Tensors may be on any device; results stay there, and no function waits for a device
once per mask. Only `clean_small_regions` works on the CPU, and it is meant for the few masks that are kept.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy import ndimage
from torch import Tensor
from torchvision.ops import nms

from ...base import Section
from .products import Precision

EIGHT_NEIGHBOURS = np.ones((3, 3), bool)


class ThresholdsConfig(Section):
    """Which masks are kept: the parameters that SAM and Semantic-SAM publish, with SAM's defaults."""

    pred_iou_thresh: float = Field(
        default=0.88, description="keeps masks with a predicted IoU above it; 0 or less: all"
    )
    stability_score_thresh: float = Field(
        default=0.95, description="keeps masks with at least this stability; 0 or less: all"
    )
    stability_score_offset: float = Field(
        default=1.0, ge=0, description="shift of the mask threshold that stability is measured with, in logits"
    )
    box_nms_thresh: float = Field(
        default=0.7, ge=0, le=1, description="drops boxes whose IoU with a better one exceeds it"
    )
    min_mask_region_area: int = Field(
        default=0, ge=0, description="fills smaller holes and drops smaller islands, in pixels; 0: off"
    )
    points_per_side: int = Field(default=32, ge=1, description="prompts with a grid of points_per_side ** 2 points")
    precision: Precision = Field(default="fp32", description="of the arithmetic: fp32 is exact, the others are faster")


def stability_scores(logits_KHW: Tensor, offset: float, threshold: float = 0.0) -> Tensor:
    """How little each mask changes when its threshold moves by `offset` up or down.

    logits_KHW: float [K, H, W]. Returns float32 [K], 0..1: pixels above threshold + offset, divided by pixels above
    threshold - offset (both strictly). NaN where no pixel is above either, so that it passes no test.
    """
    high = (logits_KHW > threshold + offset).flatten(1).sum(1, dtype=torch.int32)
    low = (logits_KHW > threshold - offset).flatten(1).sum(1, dtype=torch.int32)
    return high / low


def above(predicted_iou: Tensor, threshold: float) -> Tensor:
    """bool: which predicted IoUs are above a threshold; all if it is 0 or less."""
    return predicted_iou > threshold if threshold > 0 else torch.ones_like(predicted_iou, dtype=torch.bool)


def stable_masks(logits_KHW: Tensor, config: ThresholdsConfig) -> tuple[Tensor, Tensor, Tensor]:
    """The masks that are stable enough; all, also empty ones with NaN, if the threshold is 0 or less.

    Returns which they are, int64 [M], their stability, float32 [M], and the masks, bool [M, H, W].
    """
    stability, masks = stability_scores(logits_KHW, config.stability_score_offset), logits_KHW > 0
    if config.stability_score_thresh <= 0:
        return torch.arange(len(masks), device=masks.device), stability, masks
    stable = (stability >= config.stability_score_thresh).nonzero()[:, 0]
    return stable, stability[stable], masks[stable]


def mask_boxes(masks_KHW: Tensor) -> Tensor:
    """The first and last column and row of each mask: int64 [K, 4] as x0, y0, x1, y1; zeros for an empty mask.

    masks_KHW: bool [K, H, W].
    """
    _, height, width = masks_KHW.shape
    pixels = masks_KHW.view(torch.uint8)  # maxima and their places are not defined for bool
    rows, columns = pixels.amax(2), pixels.amax(1)
    x0, y0 = columns.argmax(1), rows.argmax(1)  # the first of equal maxima
    x1, y1 = width - 1 - columns.flip(1).argmax(1), height - 1 - rows.flip(1).argmax(1)
    return torch.stack([x0, y0, x1, y1], dim=1) * rows.amax(1, keepdim=True)


def non_maximum_suppression(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Which boxes no better one overlaps by more than `iou_threshold`: int64 indices, best score first.

    boxes: [K, 4] as x0, y0, x1, y1. scores: float [K]; of equal scores the earlier index is better, whatever K.
    The area of a box is (x1 - x0) * (y1 - y0), as published: a mask one pixel wide has none, and two boxes without
    area (0/0) never suppress each other.
    """
    return nms(boxes.float(), scores.float(), iou_threshold)


def clean_small_regions(masks_KHW: Tensor, min_area: int) -> tuple[Tensor, Tensor]:
    """Fill holes and then drop islands of fewer than `min_area` pixels; pixels that touch at a corner are connected.

    masks_KHW: bool [K, H, W]. Returns the masks and bool [K]: which of them changed. A hole may touch the frame's edge.
    If all islands of a mask are small, its largest stays, the first in reading order of equal ones.
    """
    cleaned = [_clean(mask, min_area) for mask in masks_KHW.cpu().numpy()]
    if not cleaned:
        return masks_KHW, masks_KHW.new_zeros(0)
    masks, changed = zip(*cleaned, strict=True)
    device = masks_KHW.device
    return torch.from_numpy(np.stack(masks)).to(device), torch.tensor(changed, device=device)


def _clean(mask: np.ndarray, min_area: int) -> tuple[np.ndarray, bool]:
    holes, hole_areas = _regions(~mask)
    filled = mask | (hole_areas < min_area)[holes] & ~mask
    islands, island_areas = _regions(filled)
    small = island_areas < min_area
    changed = bool((hole_areas[1:] < min_area).any() or small[1:].any())
    if len(small) > 1 and small[1:].all():
        small[1 + island_areas[1:].argmax()] = False
    return filled & ~small[islands], changed


def _regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the connected regions of a mask from 1, in reading order: int32 [H, W], and the area of each number."""
    labelled: Any = ndimage.label(mask, structure=EIGHT_NEIGHBOURS)
    ids, count = labelled
    return ids, np.bincount(ids.ravel(), minlength=count + 1)


class Cleaned(NamedTuple):
    """Masks that were cleaned and are still distinct; M of them."""

    kept: Tensor  # int64 [M]: their indices before
    masks: Tensor  # bool [M, H, W]
    boxes: Tensor  # int64 [M, 4]


def clean_and_suppress(masks_KHW: Tensor, min_area: int, iou_threshold: float) -> Cleaned:
    """Clean masks, then suppress those whose boxes now overlap. Masks that stayed as they were come first, and win.

    Within unchanged and changed masks the order stays. Scores and stability of a changed mask are not computed anew
    in the published code; neither are they here.
    """
    masks, changed = clean_small_regions(masks_KHW, min_area)
    boxes = mask_boxes(masks)
    kept = non_maximum_suppression(boxes, (~changed).float(), iou_threshold)
    return Cleaned(kept, masks[kept], boxes[kept])


def pack_bits(masks_KHW: Tensor) -> Tensor:
    """Masks at an eighth of their size, to hold many of them: uint8 [K, ceil(H * W / 8)]."""
    _, height, width = masks_KHW.shape
    pixels = F.pad(masks_KHW.flatten(1).view(torch.uint8), (0, -height * width % 8)).unflatten(1, (-1, 8))
    return functools.reduce(torch.bitwise_or, (pixels[..., bit] << bit for bit in range(8)))


def unpack_bits(packed: Tensor, height: int, width: int) -> Tensor:
    """What `pack_bits` packed: bool [K, height, width]."""
    pixels = torch.stack([packed >> bit & 1 for bit in range(8)], dim=2)
    return pixels.flatten(1)[:, : height * width].unflatten(1, (height, width)).bool()
