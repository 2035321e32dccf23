"""The losses and the matching of the published code, one number at a time, and batches to compare them on."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor

from combo_avs.model.criterion import CriterionConfig

CLASSES = 3
CONFIG = CriterionConfig(num_points=12)
UNEVEN = CriterionConfig(
    class_weight=1.5,
    mask_weight=4,
    dice_weight=3,
    consistency_weight=7,
    no_object=0.3,
    num_points=13,
    oversample=2.6,  # 33.8 candidates
    importance=0.75,  # 9.75 points
)


def make_batch(
    frames: int = 5, predictions: int = 2, queries: int = 4, size: tuple[int, int] = (16, 12), seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Class logits, mask logits, and labels of blocks of 3 x 3 pixels."""
    rng = torch.Generator().manual_seed(seed)
    height, width = size
    logits = torch.randn(predictions, frames, queries, CLASSES + 1, generator=rng)
    masks = 3 * torch.randn(predictions, frames, queries, -(-height // 4), -(-width // 4), generator=rng)
    blocks = torch.randint(CLASSES, (frames, height // 3 + 1, width // 3 + 1), generator=rng, dtype=torch.uint8)
    labels = blocks.repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :height, :width].contiguous()
    return logits, masks, labels


class Recorder:
    """A `uniform` that keeps what it gave."""

    def __init__(self) -> None:
        self.rng = torch.Generator().manual_seed(7)
        self.given: list[Tensor] = []

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        self.given.append(torch.rand(shape, generator=self.rng))
        return self.given[-1]


def at(image: np.ndarray, x: float, y: float) -> float:
    """Bilinear value at (x, y) of 0..1 from edge to edge; pixels outside are 0."""
    height, width = image.shape
    column, row = x * width - 0.5, y * height - 0.5
    value = 0.0
    for r, c in itertools.product((math.floor(row), math.floor(row) + 1), (math.floor(column), math.floor(column) + 1)):
        if 0 <= r < height and 0 <= c < width:
            value += image[r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return value


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def bce_and_dice(x: list[float], t: list[float]) -> tuple[float, float]:
    bce = [math.log1p(math.exp(-abs(a))) + max(a, 0) - a * b for a, b in zip(x, t, strict=True)]
    p = [sigmoid(a) for a in x]
    overlap = sum(a * b for a, b in zip(p, t, strict=True))
    return sum(bce) / len(bce), 1 - (2 * overlap + 1) / (sum(p) + sum(t) + 1)


def cheapest(cost: np.ndarray) -> list[tuple[int, int]]:
    """Of all ways to pair each row with a column of its own, or each column with a row, the one of least sum."""
    rows, columns = map(range, cost.shape)
    if len(rows) < len(columns):
        ways = [list(zip(rows, way, strict=True)) for way in itertools.permutations(columns, len(rows))]
    else:
        ways = [sorted(zip(way, columns, strict=True)) for way in itertools.permutations(rows, len(columns))]
    return min(ways, key=lambda way: sum(cost[pair] for pair in way))


def slow_criterion(
    predicted: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    supervised: np.ndarray,
    draws: list[np.ndarray],
    config: CriterionConfig = CONFIG,
) -> dict[str, float]:
    """The published losses, one number at a time; draws in the order in which `criterion` asked for them.

    predicted: class logits and mask logits.
    """
    (logits, masks), (of_class, of_mask, of_dice) = (
        predicted,
        (config.class_weight, config.mask_weight, config.dice_weight),
    )
    predictions = len(logits)
    h, w = masks.shape[-2:]
    padded = np.full((len(labels), 4 * h, 4 * w), 255)
    padded[:, : labels.shape[1], : labels.shape[2]] = labels
    frames = np.flatnonzero(supervised)
    targets = {b: [(k, (padded[b] == k).astype(float)) for k in np.unique(padded[b]) if k != 255] for b in frames}
    total_targets = max(1, sum(map(len, targets.values())))
    losses = {}
    for order, p in enumerate([predictions - 1, *range(predictions - 1)]):
        matching_points, (candidates, plain) = draws[order], draws[predictions + 2 * order :][:2]
        ce, ce_weight, bce_sum, dice_sum, pair = 0.0, 0.0, 0.0, 0.0, 0
        for s, b in enumerate(frames):
            probability = np.exp(logits[p, b]) / np.exp(logits[p, b]).sum(-1, keepdims=True)
            cost = np.zeros((masks.shape[2], len(targets[b])))
            for q, (n, (k, mask)) in itertools.product(range(len(cost)), enumerate(targets[b])):
                x = [at(masks[p, b, q], *xy) for xy in matching_points[s]]
                bce, dice = bce_and_dice(x, [at(mask, *xy) for xy in matching_points[s]])
                cost[q, n] = -of_class * probability[q, k] + of_mask * bce + of_dice * dice
            wanted = np.full(len(cost), CLASSES)
            for q, n in cheapest(cost):
                k, mask = targets[b][n]
                wanted[q] = k
                nearest = sorted(candidates[pair], key=lambda xy: abs(at(masks[p, b, q], *xy)))
                points = [*nearest[: math.floor(config.importance * config.num_points)], *plain[pair]]
                bce, dice = bce_and_dice([at(masks[p, b, q], *xy) for xy in points], [at(mask, *xy) for xy in points])
                bce_sum, dice_sum, pair = bce_sum + bce, dice_sum + dice, pair + 1
            for q, k in enumerate(wanted):
                weight = config.no_object if k == CLASSES else 1.0
                ce, ce_weight = ce - weight * math.log(probability[q, k]), ce_weight + weight
        name = "" if p == predictions - 1 else f"_{p}"
        losses["loss_ce" + name] = of_class * ce / ce_weight
        losses["loss_mask" + name] = of_mask * bce_sum / total_targets
        losses["loss_dice" + name] = of_dice * dice_sum / total_targets
    for p in range(predictions - 1):
        terms = []
        for b in range(len(labels) - 1):
            if b % 5 < 4:
                one, two = masks[p, b].ravel(), masks[p, b + 1].ravel()
                c = one @ two / math.sqrt((one @ one) * (two @ two))
                terms.append((1 - c) * math.exp(c - 1))
        losses[f"loss_cosine_{p}"] = config.consistency_weight * sum(terms) / len(terms)
    return losses | {"total": sum(losses.values())}
