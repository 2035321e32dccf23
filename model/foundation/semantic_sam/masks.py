"""From Semantic-SAM's mask logits to the masks that it proposes: the published rules, in their order.

Letters: K queries or masks, h w mask logits of the padded frame, H W the frame.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..mask_candidates import (
    ThresholdsConfig,
    above,
    clean_and_suppress,
    mask_boxes,
    non_maximum_suppression,
    pack_bits,
    stable_masks,
    unpack_bits,
)

UPSCALING = 4  # from mask logits to pixels
PIXELS_AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 28}  # of rendered masks: as fits a CPU's cache, and keeps a GPU busy


class Candidates(NamedTuple):
    """Masks of one frame, K of them, on the device."""

    query: Tensor  # int64 [K], of all queries of the frame
    ious: Tensor  # float32 [K], predicted
    stability: Tensor  # float32 [K], NaN for an empty mask
    bits: Tensor  # of the masks, as `pack_bits`
    boxes: Tensor  # int64 [K, 4], as `mask_boxes`

    def take(self, chosen: Tensor) -> "Candidates":
        """Those at `chosen`: int64 indices, or bool [K]."""
        return Candidates(*(column[chosen] for column in self))


def confident_masks(
    ious_K: Tensor, logits_of: Callable[[Tensor], Tensor], size: tuple[int, int], config: ThresholdsConfig
) -> Candidates:
    """Queries whose predicted IoU is above, and whose mask's stability is at least, the threshold; in their order.

    A threshold of 0 or less lets all through, also empty masks, whose stability is NaN.
    ious_K: float32, of all queries. logits_of: from int64 query indices to their logits, float32 [*, h, w]; called with
    few at a time, and only with those above the first threshold. size: H, W.
    """
    confident = above(ious_K, config.pred_iou_thresh)
    at_once = max(1, PIXELS_AT_ONCE[ious_K.device.type] // (size[0] * size[1]))
    found = []
    for query in confident.nonzero()[:, 0].split(at_once):
        logits = enlarged(logits_of(query), size)
        stable, stability, masks = stable_masks(logits, config)
        query = query[stable]
        found.append(Candidates(query, ious_K[query], stability, pack_bits(masks), mask_boxes(masks)))
    return Candidates(*(torch.cat(columns) for columns in zip(*found, strict=True)))


def enlarged(logits_Khw: Tensor, size: tuple[int, int]) -> Tensor:
    """float32 [K, H, W]: logits of the frame, which fills the upper left of the padded one; bilinear, four times."""
    rows, columns = (-(-side // UPSCALING) + 1 for side in size)  # one more than covers the frame, for its last pixels
    enlarged_Khw = F.interpolate(
        logits_Khw[:, None, :rows, :columns], scale_factor=UPSCALING, mode="bilinear", align_corners=False
    )
    return enlarged_Khw[:, 0, : size[0], : size[1]]


def distinct_masks(found: Candidates, size: tuple[int, int], config: ThresholdsConfig) -> tuple[Candidates, Tensor]:
    """Candidates that overlap no better one, cleaned of small holes and islands, and their masks, bool [K, H, W].

    Best predicted IoU first; but masks that the cleaning changed come after all others and yield to them, see
    `clean_and_suppress`. `bits` and `boxes` are those before the cleaning. size: H, W.
    """
    found = found.take(non_maximum_suppression(found.boxes, found.ious, config.box_nms_thresh))
    masks = unpack_bits(found.bits, *size)
    if config.min_mask_region_area == 0:
        return found, masks
    cleaned = clean_and_suppress(masks, config.min_mask_region_area, config.box_nms_thresh)
    return found.take(cleaned.kept), cleaned.masks
