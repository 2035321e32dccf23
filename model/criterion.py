"""COMBO's training losses: mask classification on every prediction, and the inter-frame consistency loss.

P predictions, B frames of the batch, S supervised ones among them, Q queries, K classes (class logits hold
one entry more, "no object"), h w masks at stride 4, H W labels, M matched pairs, R points.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ..base import IGNORE_LABEL, Section
from .matcher import FrameTargets, frame_targets, last_first, match, sample_points
from .random_numbers import ClipUniform, Uniform, rand_on, rows_of

CLIP = 5  # frames that the published consistency loss takes together; longer clips are multiples of it


class CriterionConfig(Section):
    """Weights of the losses, and how masks are sampled. Defaults are the published ones.

    The weights of class, mask and dice serve the matching costs, too.
    """

    class_weight: float = Field(default=2.0, ge=0, description="weight of the class loss and of its matching cost")
    mask_weight: float = Field(default=5.0, ge=0, description="weight of the mask cross-entropy and its matching cost")
    dice_weight: float = Field(default=5.0, ge=0, description="weight of the dice loss and of its matching cost")
    consistency_weight: float = Field(default=10.0, ge=0, description="weight of the inter-frame consistency loss")
    consistency_on: Literal["aux", "middle", "all"] = Field(
        default="aux",
        description="predictions that the consistency loss reads: raw queries and all layers but the last (published "
        "code), that of the middle layer alone (one reading of the paper), or all",
    )
    consistency_clip: Literal["five", "whole"] = Field(
        default="five", description="what the consistency loss compares: groups of five frames (published) or the clip"
    )
    consistency_detach: bool = Field(
        default=False, description="pass no gradient through the adaptive factor of the consistency loss"
    )
    no_object: float = Field(default=0.1, gt=0, description="weight of unmatched queries in the class loss")
    num_points: int = Field(default=12544, ge=1, description="points sampled per mask")
    oversample: float = Field(default=3.0, ge=1, description="candidates per sampled point")
    importance: float = Field(default=0.75, ge=0, le=1, description="share of points taken where masks are unsure")


@dataclass(frozen=True)
class Supervision:
    """What the B frames of a batch are compared with.

    labels_BHW: uint8, 0..K-1; 255 belongs to no target.
    supervised_B: bool; the other frames (S4: all but a clip's first) enter the consistency loss alone, and their
    labels are not read. Both are best left on the host, where targets are counted; another device must wait for it.
    frames_per_clip: the batch's clips in order, 5 or 10 frames each, B in sum.
    """

    labels_BHW: Tensor
    supervised_B: Tensor
    frames_per_clip: Sequence[int]


class Totals(NamedTuple):
    """What the sums over a batch are divided by; under torch.distributed the means over ranks."""

    class_weight: float  # sum of the class loss's weights, over the queries of all supervised frames
    targets: float  # at least 1
    neighbours: float  # pairs of successive frames in the consistency loss

    @classmethod
    def of(
        cls, targets: FrameTargets, num_queries: int, frames_per_clip: Sequence[int], config: CriterionConfig
    ) -> "Totals":
        """Of the whole batch. Every rank must call this in step."""
        matched = sum(targets.matched(num_queries))
        unmatched = len(targets.counts) * num_queries - matched
        neighbours = sum(n - 1 for n in successive(frames_per_clip, config.consistency_clip))
        sums = torch.tensor([matched + config.no_object * unmatched, sum(targets.counts), neighbours])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(sums)
            sums /= dist.get_world_size()
        class_weight, num_targets, neighbours = sums.tolist()
        return cls(class_weight, max(num_targets, 1.0), neighbours)


def criterion(
    logits_PBQK: Tensor,
    masks_PBQhw: Tensor,
    supervision: Supervision,
    config: CriterionConfig,
    uniform: ClipUniform | None = None,
    totals: Totals | None = None,
) -> dict[str, Tensor]:
    """All losses of one batch, weighted, float32 scalars, and their sum under "total".

    logits_PBQK: [P, B, Q, K + 1]. masks_PBQhw: [P, B, Q, ceil(H/4), ceil(W/4)] logits. Prediction 0 comes
    from the raw queries, the last one is the result.
    uniform: per-clip random numbers on the device of the masks; default: torch.rand.
    totals: of a larger batch, of which this one is a part: the losses of all parts add up to those of the whole.

    Names: loss_ce, loss_mask, loss_dice for the last prediction, with _0, _1, ... for the others;
    loss_cosine_0, loss_cosine_1, ...: 39 for the published ten predictions. Without supervised frames the
    first three kinds are 0. Under torch.distributed every rank must call this in step, and the mean over ranks is
    the loss of all their clips in one batch.
    Raises ValueError for shapes and labels that do not fit, FloatingPointError for predictions that are not
    finite (see `match`).
    """
    _check(logits_PBQK, masks_PBQhw, supervision)
    device, (num_predictions, _, num_queries) = masks_PBQhw.device, logits_PBQK.shape[:3]
    names = [f"_{p}" for p in range(num_predictions - 1)] + [""]
    losses = {}
    with torch.autocast(device.type, enabled=False):
        labels_BHW = fill_stride(supervision.labels_BHW, masks_PBQhw)
        targets = frame_targets(labels_BHW, supervision.supervised_B, logits_PBQK.shape[-1] - 1, device)
        totals = totals or Totals.of(targets, num_queries, supervision.frames_per_clip, config)
        uniform = uniform or rand_on(device)
        frames, pairs = pairs_of_clips(targets, num_queries, supervision)
        weights = (config.class_weight, config.mask_weight, config.dice_weight)
        pairs_P3M = match(logits_PBQK, masks_PBQhw, targets, weights, config.num_points, rows_of(uniform, frames))
        terms = {"loss_ce": config.class_weight * class_losses(logits_PBQK, targets, pairs_P3M, totals, config)}
        bce_P, dice_P = mask_losses(masks_PBQhw, targets, pairs_P3M, totals, config, rows_of(uniform, pairs))
        terms["loss_mask"], terms["loss_dice"] = config.mask_weight * bce_P, config.dice_weight * dice_P
        lengths = successive(supervision.frames_per_clip, config.consistency_clip)
        cosine_P = consistency_loss(
            masks_PBQhw.flatten(2), lengths, detach=config.consistency_detach, neighbours=totals.neighbours
        )
        read = consistent_predictions(num_predictions, config.consistency_on)
        terms["loss_cosine"] = config.consistency_weight * cosine_P[read.start : read.stop]
    for kind, values in terms.items():
        of_kind = [names[p] for p in read] if kind == "loss_cosine" else names
        losses |= {kind + name: value for name, value in zip(of_kind, values.unbind(), strict=True)}
    losses["total"] = torch.cat(list(terms.values())).sum()
    return losses


def class_losses(
    logits_PBQK: Tensor, targets: FrameTargets, pairs_P3M: Tensor, totals: Totals, config: CriterionConfig
) -> Tensor:
    """[P]: cross-entropy over all queries of supervised frames; unmatched ones are "no object", weighted less.

    The mean is weighted, too: the sum is divided by the sum of weights.
    """
    logits_PSQK = logits_PBQK[:, targets.frames_S].float()
    num_predictions, num_classes = len(logits_PSQK), logits_PSQK.shape[-1] - 1
    row_PM, query_PM, class_PM = pairs_P3M.unbind(1)
    wanted_PSQ = torch.full(logits_PSQK.shape[:3], num_classes, device=logits_PSQK.device)
    wanted_PSQ[_prediction(row_PM), row_PM, query_PM] = class_PM
    weight_K = torch.ones(num_classes + 1, device=logits_PSQK.device)
    weight_K[-1] = config.no_object
    ce = F.cross_entropy(logits_PSQK.flatten(0, 2), wanted_PSQ.flatten(), weight_K, reduction="none")
    return ce.view(num_predictions, -1).sum(-1) / max(totals.class_weight, 1e-12)


def mask_losses(
    masks_PBQhw: Tensor,
    targets: FrameTargets,
    pairs_P3M: Tensor,
    totals: Totals,
    config: CriterionConfig,
    uniform: Uniform,
) -> tuple[Tensor, Tensor]:
    """[P] each: binary cross-entropy and dice of matched pairs at points, summed over pairs / number of targets.

    Points are chosen prediction by prediction, which bounds the memory for candidates; all predictions are then
    read in one batch.
    """
    row_PM, query_PM, class_PM = pairs_P3M.unbind(1)
    masks_PMhw = masks_PBQhw[_prediction(row_PM), targets.frames_S[row_PM], query_PM].float()
    points, shown = {}, {}
    for p in last_first(len(masks_PMhw)):
        with torch.no_grad():
            points[p] = unsure_points(masks_PMhw[p][:, None], config, uniform)
            labels_MHW = targets.labels_SHW[row_PM[p]]
            shown_M1HW = (labels_MHW == class_PM[p][:, None, None]).float()[:, None]
            shown[p] = sample_points(shown_M1HW, points[p])[:, 0]
    points_PMR2, t_PMR = (torch.stack([of[p] for p in range(len(of))]) for of in (points, shown))
    x_PMR = sample_points(masks_PMhw.flatten(0, 1)[:, None], points_PMR2.flatten(0, 1)).view_as(t_PMR)
    bce_PM = F.binary_cross_entropy_with_logits(x_PMR, t_PMR, reduction="none").mean(-1)
    p_PMR = x_PMR.sigmoid()
    dice_PM = 1 - (2 * (p_PMR * t_PMR).sum(-1) + 1) / (p_PMR.sum(-1) + t_PMR.sum(-1) + 1)
    return bce_PM.sum(-1) / totals.targets, dice_PM.sum(-1) / totals.targets


@torch.no_grad()
def unsure_points(masks_M1hw: Tensor, config: CriterionConfig, uniform: Uniform) -> Tensor:
    """[M, R, 2] points (x, y) of 0..1: most at candidates with logits nearest to 0, the rest anywhere."""
    num_pairs, num_unsure = len(masks_M1hw), int(config.importance * config.num_points)
    candidates = uniform((num_pairs, int(config.oversample * config.num_points), 2))
    distance = sample_points(masks_M1hw, candidates)[:, 0].abs()
    nearest = distance.topk(num_unsure, dim=1, largest=False, sorted=False).indices
    unsure = candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
    return torch.cat([unsure, uniform((num_pairs, config.num_points - num_unsure, 2))], dim=1)


def consistent_predictions(num_predictions: int, consistency_on: str) -> range:
    """The predictions that the consistency loss reads; `consistency_on` as in `CriterionConfig`."""
    middle = num_predictions // 2  # 0 is the raw queries', so of nine layers this is the fifth's
    if consistency_on == "middle":
        return range(middle, middle + 1)
    return range(num_predictions - (consistency_on == "aux"))


def successive(frames_per_clip: Sequence[int], consistency_clip: str) -> list[int]:
    """Lengths of the runs of frames that the consistency loss takes together."""
    if consistency_clip == "whole":
        return list(frames_per_clip)
    return [CLIP] * (sum(frames_per_clip) // CLIP)


def consistency_loss(
    frames_BV: Tensor,
    lengths: Sequence[int] | None = None,
    *,
    detach: bool = False,
    neighbours: float | None = None,
) -> Tensor:
    """Adaptive inter-frame consistency (paper, equation 7): (1 - c) exp(c - 1), mean over neighbours.

    c is the cosine between the mask logits of all queries in successive frames of a clip. The exponential
    spares neighbours that do differ. As published it is not detached: the slope over c is then -c exp(c - 1),
    which drives neighbours of negative c apart. With `detach` it is -exp(c - 1), which never does.

    frames_BV: [..., B, V], a row for the mask logits of all queries of a frame. Returns [...].
    lengths: which frames are successive, B in sum; None: each five, as published.
    neighbours: what the sum is divided by; None: their number.
    """
    lengths = lengths or [CLIP] * (frames_BV.shape[-2] // CLIP)
    assert sum(lengths) == frames_BV.shape[-2]
    products, squares = [], []
    for clip_TV in frames_BV.float().split(list(lengths), dim=-2):
        gram_TT = clip_TV @ clip_TV.mT  # squares and products in one pass over the masks, and no copies of them
        square_T = gram_TT.diagonal(dim1=-2, dim2=-1) + 1e-12
        products.append(gram_TT.diagonal(1, dim1=-2, dim2=-1))
        squares.append(square_T[..., :-1] * square_T[..., 1:])
    cosine = torch.cat(products, dim=-1) * torch.cat(squares, dim=-1).rsqrt()
    factor = (cosine - 1).exp()
    terms = (1 - cosine) * (factor.detach() if detach else factor)
    return terms.sum(-1) / (neighbours or terms.shape[-1])


def pairs_of_clips(targets: FrameTargets, num_queries: int, supervision: Supervision) -> tuple[list[int], list[int]]:
    """For every clip the number of its supervised frames, and of its pairs."""
    frames, pairs, matched = [], [], iter(targets.matched(num_queries))
    for clip in supervision.supervised_B.cpu().split(list(supervision.frames_per_clip)):
        frames.append(int(clip.sum()))
        pairs.append(sum(islice(matched, frames[-1])))
    return frames, pairs


def _prediction(pairs_PM: Tensor) -> Tensor:
    """[P, 1]: the number of each pair's prediction, for indexing."""
    return torch.arange(len(pairs_PM), device=pairs_PM.device)[:, None]


def fill_stride(labels_BHW: Tensor, masks_PBQhw: Tensor) -> Tensor:
    """Labels of 4h x 4w, so that masks and labels end at the same place; added pixels show nothing."""
    (height, width), (h, w) = labels_BHW.shape[-2:], masks_PBQhw.shape[-2:]
    if (height, width) == (4 * h, 4 * w):
        return labels_BHW
    return F.pad(labels_BHW, (0, 4 * w - width, 0, 4 * h - height), value=IGNORE_LABEL)


def _check(logits_PBQK: Tensor, masks_PBQhw: Tensor, supervision: Supervision) -> None:
    labels_BHW, supervised_B = supervision.labels_BHW, supervision.supervised_B
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
    frames_per_clip = supervision.frames_per_clip
    if sum(frames_per_clip) != batch or any(n % CLIP for n in frames_per_clip):
        raise ValueError(f"clips of {frames_per_clip} frames: each must be a multiple of {CLIP}, together {batch}")
