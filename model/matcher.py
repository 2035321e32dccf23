"""Bipartite matching of queries and target masks: point-sampled costs and their optimal assignment.

A target is one class in one supervised frame; background is an ordinary class. With at most two targets in a frame
the optimum is found on the device. With more, the Hungarian algorithm runs on the host, and the costs of all frames
and predictions go there in one copy.

P predictions, B frames of the batch, S supervised ones among them, s some of those, Q queries, K classes
(class logits hold one entry more, "no object"), N most targets in one frame, h w masks, H W labels, R points,
M pairs.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..base import IGNORE_LABEL
from .random_numbers import Uniform
from .transfer import to_device

FRAMES_AT_ONCE = 20  # bounds the memory for costs: 100 MB per intermediate at 100 queries and 12,544 points


@dataclass(frozen=True)
class FrameTargets:
    """What the supervised frames of a batch show. Tensors are on the device of the predictions."""

    frames_S: Tensor  # int64: their positions in the batch
    labels_SHW: Tensor  # uint8
    classes_SN: Tensor  # int64: the classes in each frame, ascending; the row's rest is -1
    counts: list[int]  # S numbers: how many of each row are meant

    def matched(self, num_queries: int) -> list[int]:
        """S numbers: how many targets of each frame get a query."""
        return [min(count, num_queries) for count in self.counts]


def frame_targets(
    labels_BHW: Tensor, supervised_B: Tensor, num_classes: int, device: torch.device | None = None
) -> FrameTargets:
    """Every class that occurs in a supervised frame is a target, background included; 255 is none.

    labels_BHW: uint8, 0..num_classes-1 or 255. supervised_B: bool. Both are looked at on the host: where they lie on
    another device, that waits for it. device: of the result; default: that of the labels.
    Raises ValueError naming any other label.
    """
    device = device or labels_BHW.device
    frames_S = supervised_B.nonzero()[:, 0]
    labels_SHW = labels_BHW[frames_S.to(labels_BHW.device)]
    present = torch.zeros(len(frames_S), 256, dtype=torch.bool, device=labels_BHW.device)
    present = present.scatter_(1, labels_SHW.flatten(1).long(), True).cpu()
    present[:, IGNORE_LABEL] = False
    wrong = present[:, num_classes:].nonzero()
    if len(wrong):
        frame, label = int(frames_S[wrong[0, 0]]), int(wrong[0, 1]) + num_classes
        raise ValueError(
            f"frame {frame} of the batch holds label {label}, but there are {num_classes} classes "
            f"(0..{num_classes - 1}; {IGNORE_LABEL} is ignored)"
        )
    classes = [row.nonzero()[:, 0] for row in present]
    counts = [len(c) for c in classes]
    classes_SN = torch.full((len(classes), max(counts, default=0)), -1, dtype=torch.int64)
    for row, c in zip(classes_SN, classes, strict=True):
        row[: len(c)] = c
    frames_S, labels_SHW, classes_SN = (to_device(x, device) for x in (frames_S, labels_SHW, classes_SN))
    return FrameTargets(frames_S, labels_SHW, classes_SN, counts)


def sample_points(masks_sQhw: Tensor, points_sR2: Tensor) -> Tensor:
    """Bilinear values [s, Q, R] of masks at points (x, y), 0..1 from edge to edge; zero beyond edges."""
    grid = 2 * points_sR2[:, None] - 1
    return F.grid_sample(masks_sQhw, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[:, :, 0]


def matching_costs(
    logits_sQK: Tensor, masks_sQhw: Tensor, labels_sHW: Tensor, classes_sN: Tensor, points_sR2: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Costs of class, mask and dice, each [s, Q, N], from masks and targets at the same points.

    Class: minus the class's probability. Mask: binary cross-entropy, mean over points. Dice: 1 - dice,
    smoothed by one point. No gradient passes.
    """
    probabilities_sQK = logits_sQK.float().softmax(dim=-1)
    columns = classes_sN.clamp(min=0)[:, None].expand(-1, logits_sQK.shape[1], -1)
    class_cost = -probabilities_sQK.gather(2, columns)

    x_sQR = sample_points(masks_sQhw.float(), points_sR2)
    shown_sNHW = labels_sHW[:, None] == classes_sN[:, :, None, None]
    t_sRN = sample_points(shown_sNHW.float(), points_sR2).transpose(1, 2)
    # Cross-entropy of a logit x with a target t is softplus(x) - x t, so a matrix product gives all pairs.
    mask_cost = (F.softplus(x_sQR).sum(-1, keepdim=True) - x_sQR @ t_sRN) / x_sQR.shape[-1]

    p_sQR = x_sQR.sigmoid_()
    areas_sQN = p_sQR.sum(-1, keepdim=True) + t_sRN.sum(1, keepdim=True)
    dice_cost = 1 - (2 * (p_sQR @ t_sRN) + 1) / (areas_sQN + 1)
    return class_cost, mask_cost, dice_cost


@torch.no_grad()
def match(
    logits_PBQK: Tensor,
    masks_PBQhw: Tensor,
    targets: FrameTargets,
    weights: tuple[float, float, float],
    num_points: int,
    uniform: Uniform,
) -> Tensor:
    """Assign every target a query of its own, with the least total cost, in each frame of each prediction.

    weights: of class, mask and dice cost. Each frame of each prediction gets `num_points` points of its own;
    `uniform` is called once per prediction with (S, num_points, 2), for the last prediction first.
    Returns int64 [P, 3, M]: supervised frame (position in S), query, class; by frame, then by query. Where a
    frame has more targets than queries, the most expensive ones are left out.
    Raises FloatingPointError if a cost is not finite, where costs are on the host anyway: always on a CPU, on other
    devices when a frame has more than two targets.
    """
    num_predictions, num_queries = logits_PBQK.shape[0], logits_PBQK.shape[2]
    if not sum(targets.counts):
        return torch.zeros(num_predictions, 3, 0, dtype=torch.int64, device=logits_PBQK.device)
    costs_PSQN = all_costs(logits_PBQK, masks_PBQhw, targets, weights, num_points, uniform)
    few = costs_PSQN.shape[-1] <= min(2, num_queries)
    if few and costs_PSQN.device.type != "cpu":
        return assign_few(costs_PSQN, targets)
    costs = costs_PSQN.cpu().numpy()
    if not np.isfinite(costs).all():
        raise FloatingPointError(_what_broke(costs, logits_PBQK, masks_PBQhw, targets))
    return assign_few(costs_PSQN, targets) if few else assign_any(costs, targets).to(logits_PBQK.device)


def all_costs(
    logits_PBQK: Tensor,
    masks_PBQhw: Tensor,
    targets: FrameTargets,
    weights: tuple[float, float, float],
    num_points: int,
    uniform: Uniform,
) -> Tensor:
    """Weighted costs [P, S, Q, N]; arguments are those of `match`. Columns beyond a frame's targets have no meaning."""
    num_predictions, num_frames = len(logits_PBQK), len(targets.counts)
    costs: dict[int, Tensor] = {}
    for p in last_first(num_predictions):
        points_SR2 = uniform((num_frames, num_points, 2))
        parts = []
        for start in range(0, num_frames, FRAMES_AT_ONCE):
            s = slice(start, start + FRAMES_AT_ONCE)
            frames_s = targets.frames_S[s]
            terms = matching_costs(
                logits_PBQK[p, frames_s],
                masks_PBQhw[p, frames_s],
                targets.labels_SHW[s],
                targets.classes_SN[s],
                points_SR2[s],
            )
            parts.append(sum(w * term for w, term in zip(weights, terms, strict=True)))
        costs[p] = torch.cat(parts)
    return torch.stack([costs[p] for p in range(num_predictions)])


def last_first(num_predictions: int) -> tuple[int, ...]:
    """The order in which published code goes through predictions: the last one, then from the first on."""
    return (num_predictions - 1, *range(num_predictions - 1))


def assign_few(costs_PSQN: Tensor, targets: FrameTargets) -> Tensor:
    """The pairs [P, 3, M] of `match` for one or two targets per frame and no fewer queries; nothing leaves the device.

    Of each target only the two cheapest queries can be part of the optimum, so four sums are compared.
    """
    num_queries = costs_PSQN.shape[2]
    absent_SN = targets.classes_SN < 0
    costs_PSQN = costs_PSQN.masked_fill(absent_SN[:, None], 0)  # then the other target gets its cheapest
    if costs_PSQN.shape[-1] == 1:
        query_PSN = costs_PSQN.argmin(dim=2)
    else:
        cost_PS2N, query_PS2N = costs_PSQN.topk(2, dim=2, largest=False)
        (one, other), (of_one, of_other) = cost_PS2N.double().unbind(-1), query_PS2N.unbind(-1)
        clash = of_one[..., :, None] == of_other[..., None, :]
        sums = (one[..., :, None] + other[..., None, :]).masked_fill(clash, torch.inf)
        best_PS1 = sums.flatten(-2).argmin(-1, keepdim=True)
        query_PSN = torch.cat([of_one.gather(-1, best_PS1 // 2), of_other.gather(-1, best_PS1 % 2)], dim=-1)
    query_PSN, order = query_PSN.masked_fill(absent_SN, num_queries).sort(dim=-1)
    class_PSN = targets.classes_SN.expand_as(order).gather(-1, order)
    row_PSN = torch.arange(len(targets.counts), device=order.device)[:, None].expand_as(order)
    pairs_P3L = torch.stack([row_PSN, query_PSN, class_PSN], dim=1).flatten(2)
    present_SN = torch.arange(order.shape[-1]) < torch.tensor(targets.counts)[:, None]
    return pairs_P3L[..., to_device(present_SN.flatten().nonzero()[:, 0], order.device)]


def assign_any(costs_PSQN: np.ndarray, targets: FrameTargets) -> Tensor:
    """The pairs [P, 3, M] of `match`, on the host, for any number of targets."""
    classes_SN = targets.classes_SN.cpu().numpy()
    return torch.from_numpy(np.stack([_hungarian(costs_SQN, classes_SN, targets.counts) for costs_SQN in costs_PSQN]))


def _hungarian(costs_SQN: np.ndarray, classes_SN: np.ndarray, counts: list[int]) -> np.ndarray:
    """int64 [3, M]: the optimal pairs of one prediction."""
    pairs = []
    for s, (costs_QN, count) in enumerate(zip(costs_SQN, counts, strict=True)):
        query, target = linear_sum_assignment(costs_QN[:, :count])
        pairs.append(np.stack([np.full_like(query, s), query, classes_SN[s, target]]))
    return np.concatenate(pairs, axis=1)


def _what_broke(costs_PSQN: np.ndarray, logits_PBQK: Tensor, masks_PBQhw: Tensor, targets: FrameTargets) -> str:
    p, s = (int(i) for i in np.argwhere(~np.isfinite(costs_PSQN))[0, :2])
    frame = int(targets.frames_S[s])
    sources = {"class logits": logits_PBQK[p, frame], "mask logits": masks_PBQhw[p, frame]}
    broken = [name for name, x in sources.items() if not torch.isfinite(x).all()]
    which = "the final prediction" if p == len(costs_PSQN) - 1 else f"prediction {p} (0: the raw queries)"
    return (
        f"matching costs of frame {frame} of the batch are not finite in {which}: "
        f"{' and '.join(broken) or 'no input'} hold NaN or infinity; "
        "the training has diverged, or half precision has overflowed"
    )
