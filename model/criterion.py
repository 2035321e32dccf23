"""COMBO's training losses: mask classification on every prediction, and the inter-frame consistency loss.

P predictions, B frames of the batch, S supervised ones among them, Q queries, K classes (class logits hold
one entry more, "no object"), h w masks at stride 4, H W labels, M matched pairs, R points.
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from .config import Section
from .matcher import IGNORE_LABEL, Targets, Uniform, find_targets, last_first, match, sample_points

CLIP = 5  # frames that the published consistency loss takes together; longer clips are multiples of it


class CriterionConfig(Section):
    """Weights of the losses, and how masks are sampled. Defaults are the published ones.

    The weights of class, mask and dice serve the matching costs, too.
    """

    class_weight: float = Field(2.0, ge=0)
    mask_weight: float = Field(5.0, ge=0)
    dice_weight: float = Field(5.0, ge=0)
    consistency_weight: float = Field(10.0, ge=0)
    # Predictions that the consistency loss reads. aux: raw queries and all layers but the last (published code);
    # middle: that of the middle layer alone, one reading of the paper; all: all.
    consistency_on: Literal["aux", "middle", "all"] = "aux"
    consistency_clip: Literal["five", "whole"] = "five"  # five: ten frames are two clips, as published
    consistency_detach: bool = False  # True: the loss's adaptive factor weighs, but passes no gradient
    no_object: float = Field(0.1, gt=0)  # weight of unmatched queries in the class loss
    num_points: int = Field(12544, ge=1)  # R, per mask
    oversample: float = Field(3.0, ge=1)  # candidates per point
    importance: float = Field(0.75, ge=0, le=1)  # share of the points that is taken where masks are unsure


def criterion(
    logits_PBQK: Tensor,
    masks_PBQhw: Tensor,
    labels_BHW: Tensor,
    supervised_B: Tensor,
    frames_per_clip: list[int],
    config: CriterionConfig,
    uniform: Uniform | None = None,
) -> dict[str, Tensor]:
    """All losses of one batch, weighted, float32 scalars, and their sum under "total".

    All tensors are on one device.
    logits_PBQK: [P, B, Q, K + 1]. masks_PBQhw: [P, B, Q, ceil(H/4), ceil(W/4)] logits. Prediction 0 comes
    from the raw queries, the last one is the result.
    labels_BHW: uint8, 0..K-1; 255 belongs to no target. supervised_B: bool; the other frames (S4: all but a
    clip's first) enter the consistency loss alone, and their labels are not read.
    frames_per_clip: the batch's clips in order, 5 or 10 frames each, B in sum.
    uniform: gives random numbers of 0..1 of a shape; default: torch.rand on the device of the masks.

    Names: loss_ce, loss_mask, loss_dice for the last prediction, with _0, _1, ... for the others;
    loss_cosine_0, loss_cosine_1, ...: 39 for the published ten predictions. Without supervised frames the
    first three kinds are 0. Under torch.distributed every rank must call this in step.
    Raises ValueError for shapes and labels that do not fit, FloatingPointError for predictions that are not
    finite.
    """
    _check(logits_PBQK, masks_PBQhw, labels_BHW, supervised_B, frames_per_clip)
    device, num_predictions = masks_PBQhw.device, len(masks_PBQhw)
    uniform = uniform or partial(torch.rand, device=device)
    losses = {}
    with torch.autocast(device.type, enabled=False):
        targets = find_targets(_fill_stride(labels_BHW, masks_PBQhw), supervised_B, logits_PBQK.shape[-1] - 1)
        weights = (config.class_weight, config.mask_weight, config.dice_weight)
        pairs_P3M = match(logits_PBQK, masks_PBQhw, targets, weights, config.num_points, uniform)
        num_targets = _mean_over_ranks(sum(targets.counts), device)
        # Unbound once: indexing again and again would fill a gradient of all predictions each time.
        logits, masks = logits_PBQK.unbind(), masks_PBQhw.unbind()
        for p in last_first(num_predictions):
            name = "" if p == num_predictions - 1 else f"_{p}"
            ce = class_loss(logits[p], targets, pairs_P3M[p], config.no_object)
            bce, dice = mask_losses(masks[p], targets, pairs_P3M[p], num_targets, config, uniform)
            losses["loss_ce" + name] = config.class_weight * ce
            losses["loss_mask" + name] = config.mask_weight * bce
            losses["loss_dice" + name] = config.dice_weight * dice
        lengths = frames_per_clip if config.consistency_clip == "whole" else None
        for p in consistent_predictions(num_predictions, config.consistency_on):
            name = "" if p == num_predictions - 1 else f"_{p}"
            cosine = consistency_loss(masks[p], lengths, config.consistency_detach)
            losses["loss_cosine" + name] = config.consistency_weight * cosine
    losses["total"] = torch.stack(list(losses.values())).sum()
    return losses


def class_loss(logits_BQK: Tensor, targets: Targets, pairs_3M: Tensor, no_object: float) -> Tensor:
    """Cross-entropy over all queries of supervised frames; unmatched ones are "no object", weighted less.

    The mean is weighted, too: the sum is divided by the sum of weights.
    """
    if not len(targets.frames_S):
        return 0 * logits_BQK.float().sum()  # keeps every parameter in the graph
    logits_SQK = logits_BQK[targets.frames_S].float()
    num_classes = logits_SQK.shape[-1] - 1
    row_M, query_M, class_M = pairs_3M
    wanted_SQ = torch.full(logits_SQK.shape[:2], num_classes, device=logits_SQK.device)
    wanted_SQ[row_M, query_M] = class_M
    weight_K = torch.ones(num_classes + 1, device=logits_SQK.device)
    weight_K[-1] = no_object
    return F.cross_entropy(logits_SQK.flatten(0, 1), wanted_SQ.flatten(), weight_K)


def mask_losses(
    masks_BQhw: Tensor,
    targets: Targets,
    pairs_3M: Tensor,
    num_targets: Tensor,
    config: CriterionConfig,
    uniform: Uniform,
) -> tuple[Tensor, Tensor]:
    """Binary cross-entropy and dice of matched pairs at points, each summed over pairs / `num_targets`."""
    row_M, query_M, class_M = pairs_3M
    if not len(row_M):
        zero = 0 * masks_BQhw.float().sum()
        return zero, zero
    masks_M1hw = masks_BQhw[targets.frames_S[row_M], query_M].float()[:, None]
    shown_M1HW = (targets.labels_SHW[row_M] == class_M[:, None, None]).float()[:, None]
    points_MR2 = unsure_points(masks_M1hw, config, uniform)
    x_MR = sample_points(masks_M1hw, points_MR2)[:, 0]
    t_MR = sample_points(shown_M1HW, points_MR2)[:, 0]
    bce_M = F.binary_cross_entropy_with_logits(x_MR, t_MR, reduction="none").mean(-1)
    p_MR = x_MR.sigmoid()
    dice_M = 1 - (2 * (p_MR * t_MR).sum(-1) + 1) / (p_MR.sum(-1) + t_MR.sum(-1) + 1)
    return bce_M.sum() / num_targets, dice_M.sum() / num_targets


@torch.no_grad()
def unsure_points(masks_M1hw: Tensor, config: CriterionConfig, uniform: Uniform) -> Tensor:
    """[M, R, 2] points (x, y) of 0..1: most at candidates with logits nearest to 0, the rest anywhere."""
    num_pairs, num_unsure = len(masks_M1hw), int(config.importance * config.num_points)
    candidates = uniform((num_pairs, int(config.oversample * config.num_points), 2))
    distance = sample_points(masks_M1hw, candidates)[:, 0].abs()
    nearest = distance.topk(num_unsure, dim=1, largest=False).indices
    unsure = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat([unsure, uniform((num_pairs, config.num_points - num_unsure, 2))], dim=1)


def consistent_predictions(num_predictions: int, consistency_on: str) -> range:
    """The predictions that the consistency loss reads; `consistency_on` as in `CriterionConfig`."""
    middle = num_predictions // 2  # 0 is the raw queries', so of nine layers this is the fifth's
    spans = {
        "aux": range(num_predictions - 1),
        "middle": range(middle, middle + 1),
        "all": range(num_predictions),
    }
    return spans[consistency_on]


def consistency_loss(masks_BQhw: Tensor, frames_per_clip: Sequence[int] | None = None, detach: bool = False) -> Tensor:
    """Adaptive inter-frame consistency (paper, equation 7): (1 - c) exp(c - 1), mean over neighbours.

    c is the cosine between the mask logits of all queries in successive frames of a clip. The exponential
    spares neighbours that do differ. As published it is not detached: the slope over c is then -c exp(c - 1),
    which drives neighbours of negative c apart. With `detach` it is -exp(c - 1), which never does.

    frames_per_clip: which frames are successive, B in sum; None: each five, as published.
    """
    frames_BV = masks_BQhw.float().flatten(1)
    squares_B = frames_BV.square().sum(-1) + 1e-12
    products = (frames_BV[:-1] * frames_BV[1:]).sum(-1)
    cosine = products * (squares_B[:-1] * squares_B[1:]).rsqrt()
    lengths = frames_per_clip or [CLIP] * (len(frames_BV) // CLIP)
    assert sum(lengths) == len(frames_BV)
    within = [cosine[end - n : end - 1] for n, end in zip(lengths, accumulate(lengths), strict=True)]
    cosine = torch.cat(within)
    factor = (cosine - 1).exp()
    return ((1 - cosine) * (factor.detach() if detach else factor)).mean()


def _mean_over_ranks(count: int, device: torch.device) -> Tensor:
    """The mean of `count` over ranks, at least 1."""
    mean = torch.tensor(float(count), device=device)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean.clamp(min=1)


def _fill_stride(labels_BHW: Tensor, masks_PBQhw: Tensor) -> Tensor:
    """Labels of 4h x 4w, so that masks and labels end at the same place; added pixels show nothing."""
    (height, width), (h, w) = labels_BHW.shape[-2:], masks_PBQhw.shape[-2:]
    return F.pad(labels_BHW, (0, 4 * w - width, 0, 4 * h - height), value=IGNORE_LABEL)


def _check(
    logits_PBQK: Tensor,
    masks_PBQhw: Tensor,
    labels_BHW: Tensor,
    supervised_B: Tensor,
    frames_per_clip: list[int],
) -> None:
    batch, (h, w) = masks_PBQhw.shape[1], masks_PBQhw.shape[-2:]
    if logits_PBQK.shape[:3] != masks_PBQhw.shape[:3]:
        raise ValueError(
            f"class logits {list(logits_PBQK.shape)} and masks {list(masks_PBQhw.shape)} differ in P, B or Q"
        )
    if labels_BHW.dtype != torch.uint8 or supervised_B.dtype != torch.bool:
        raise ValueError(f"labels must be uint8 and flags bool, not {labels_BHW.dtype} and {supervised_B.dtype}")
    if labels_BHW.shape[0] != batch or tuple(-(-n // 4) for n in labels_BHW.shape[1:]) != (h, w):
        raise ValueError(
            f"labels {list(labels_BHW.shape)} do not fit {batch} frames with masks of {h} x {w} at stride 4"
        )
    if supervised_B.shape != (batch,):
        raise ValueError(f"supervision flags {list(supervised_B.shape)} do not fit {batch} frames")
    if sum(frames_per_clip) != batch or any(n % CLIP for n in frames_per_clip):
        raise ValueError(f"clips of {frames_per_clip} frames: each must be a multiple of {CLIP}, together {batch}")
