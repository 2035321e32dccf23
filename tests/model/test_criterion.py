"""Losses and matching against slow, direct versions, and what they promise beyond the published fixtures."""

import itertools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published_draws import by_clip
from torch import Tensor

from combo_avs.model.criterion import CriterionConfig, Supervision, consistency_loss, criterion
from combo_avs.model.matcher import frame_targets, match

CLASSES = 3
CONFIG = CriterionConfig(num_points=12)


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
    logits: np.ndarray, masks: np.ndarray, labels: np.ndarray, supervised: np.ndarray, draws: list[np.ndarray]
) -> dict[str, float]:
    """The published losses, one number at a time; draws in the order in which `criterion` asked for them."""
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
                cost[q, n] = -2 * probability[q, k] + 5 * bce + 5 * dice
            wanted = np.full(len(cost), CLASSES)
            for q, n in cheapest(cost):
                k, mask = targets[b][n]
                wanted[q] = k
                nearest = sorted(candidates[pair], key=lambda xy: abs(at(masks[p, b, q], *xy)))
                points = [*nearest[: int(0.75 * CONFIG.num_points)], *plain[pair]]
                bce, dice = bce_and_dice([at(masks[p, b, q], *xy) for xy in points], [at(mask, *xy) for xy in points])
                bce_sum, dice_sum, pair = bce_sum + bce, dice_sum + dice, pair + 1
            for q, k in enumerate(wanted):
                weight = 0.1 if k == CLASSES else 1.0
                ce, ce_weight = ce - weight * math.log(probability[q, k]), ce_weight + weight
        name = "" if p == predictions - 1 else f"_{p}"
        losses["loss_ce" + name] = 2 * ce / ce_weight
        losses["loss_mask" + name] = 5 * bce_sum / total_targets
        losses["loss_dice" + name] = 5 * dice_sum / total_targets
    for p in range(predictions - 1):
        terms = []
        for b in range(len(labels) - 1):
            if b % 5 < 4:
                one, two = masks[p, b].ravel(), masks[p, b + 1].ravel()
                c = one @ two / math.sqrt((one @ one) * (two @ two))
                terms.append((1 - c) * math.exp(c - 1))
        losses[f"loss_cosine_{p}"] = 10 * sum(terms) / len(terms)
    return losses | {"total": sum(losses.values())}


@pytest.mark.parametrize(
    ("frames", "queries", "size", "every"),
    [(5, 4, (16, 12), 1), (15, 4, (16, 12), 5), (5, 4, (14, 11), 2), (5, 2, (16, 12), 1), (5, 1, (13, 12), 1)],
    ids=["one clip", "first frames only", "size no multiple of 4", "more targets than queries", "one query"],
)
def test_equals_the_direct_version(frames: int, queries: int, size: tuple[int, int], every: int) -> None:
    logits, masks, labels = make_batch(frames, 3, queries, size)
    labels[0, :3] = 255
    supervised = torch.arange(frames) % every == 0
    uniform = Recorder()
    losses = criterion(logits, masks, Supervision(labels, supervised, [frames]), CONFIG, by_clip(uniform))
    draws = [g.double().numpy() for g in uniform.given]
    expected = slow_criterion(*(a.numpy().astype(float) for a in (logits, masks, labels)), supervised.numpy(), draws)
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=2e-5), name


def test_names_of_the_published_ten_predictions() -> None:
    logits, masks, labels = make_batch(predictions=10)
    losses = criterion(logits, masks, Supervision(labels, torch.ones(5, dtype=torch.bool), [5]), CONFIG)
    kinds = ("loss_ce", "loss_mask", "loss_dice")
    aux = [f"{kind}_{i}" for kind in (*kinds, "loss_cosine") for i in range(9)]
    assert set(losses) == {*kinds, *aux, "total"}
    everywhere = CONFIG.model_copy(update={"consistency_on": "all"})
    more = criterion(logits, masks, Supervision(labels, torch.ones(5, dtype=torch.bool), [5]), everywhere)
    assert set(more) - set(losses) == {"loss_cosine"}


def test_unsupervised_frames_enter_the_consistency_loss_alone() -> None:
    logits, masks, labels = make_batch()
    logits.requires_grad_()
    masks.requires_grad_()
    supervised = torch.tensor([True, False, False, True, False])
    losses = criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder()))
    losses["total"].backward()
    assert not logits.grad[:, ~supervised].any()
    assert not masks.grad[-1, ~supervised].any()
    assert masks.grad[0].flatten(1).any(1).all()
    labels[~supervised] = 77  # not even read
    again = criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder()))
    assert again == losses


@pytest.mark.parametrize("why", ["nothing supervised", "nothing but ignored pixels"])
def test_batch_without_targets_keeps_the_graph(why: str) -> None:
    logits, masks, labels = make_batch()
    logits.requires_grad_()
    masks.requires_grad_()
    supervised = torch.full((5,), why != "nothing supervised")
    losses = criterion(logits, masks, Supervision(torch.full_like(labels, 255), supervised, [5]), CONFIG)
    losses["total"].backward()
    assert logits.grad.isfinite().all()
    assert masks.grad.isfinite().all()
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    assert (losses["loss_ce"] > 0) == (why != "nothing supervised")  # queries should say "no object"


def test_consistency_gradient_passes_the_exponential_and_survives_empty_frames() -> None:
    masks = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    masks[3] = 0
    masks.requires_grad_()
    consistency_loss(masks.flatten(1)).backward()
    assert masks.grad.isfinite().all()
    one, two = (torch.tensor([[math.cos(a), math.sin(a)]], requires_grad=True) for a in (0.0, 1.0))
    consistency_loss(torch.cat([one, one, one, one, two])).backward()
    c = math.cos(1.0)  # of the only pair of four that differs; the derivative by c is -c exp(c - 1)
    expected = -c * math.exp(c - 1) / 4 * -math.sin(1.0)  # along the circle, where c falls by sin 1
    along = two.grad @ torch.tensor([-math.sin(1.0), math.cos(1.0)])
    assert along.item() == pytest.approx(expected, rel=1e-4)


def test_every_target_has_its_own_query_and_surplus_targets_none() -> None:
    logits, masks, labels = make_batch(queries=2)
    targets = frame_targets(labels, torch.ones(5, dtype=torch.bool), CLASSES)
    assert max(targets.counts) > 2
    for pairs in match(logits, masks, targets, (2, 5, 5), 12, Recorder()):
        rows = pairs[0].tolist()
        assert [rows.count(s) for s in range(5)] == [min(2, n) for n in targets.counts]
        assert len(set(zip(rows, pairs[1].tolist(), strict=True))) == len(rows)


def test_autocast_around_it_changes_nothing() -> None:
    logits, masks, labels = make_batch()
    supervised = torch.ones(5, dtype=torch.bool)
    expected = criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder())) == expected


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(4)), seed=st.integers(0, 99))
def test_order_of_queries_does_not_matter(order: list[int], seed: int) -> None:
    logits, masks, labels = make_batch(seed=seed)
    supervised = torch.ones(5, dtype=torch.bool)
    one = criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder()))
    two = criterion(
        logits[:, :, order], masks[:, :, order], Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder())
    )
    for name in ("loss_ce", "loss_ce_0", "loss_cosine_0"):  # points of masks go by the order of pairs
        assert one[name].item() == pytest.approx(two[name].item(), rel=1e-5)


def test_wrong_input_is_named() -> None:
    logits, masks, labels = make_batch()
    supervised = torch.ones(5, dtype=torch.bool)
    wrong = labels.clone()
    wrong[2, 0, 0] = 9
    with pytest.raises(ValueError, match=r"frame 2 .* label 9, but there are 3 classes"):
        criterion(logits, masks, Supervision(wrong, supervised, [5]), CONFIG)
    with pytest.raises(ValueError, match="uint8"):
        criterion(logits, masks, Supervision(labels.long(), supervised, [5]), CONFIG)
    with pytest.raises(ValueError, match="stride 4"):
        criterion(logits, masks, Supervision(labels[:, :8], supervised, [5]), CONFIG)
    with pytest.raises(ValueError, match="multiple of 5"):
        criterion(logits, masks, Supervision(labels, supervised, [2, 3]), CONFIG)
    with pytest.raises(ValueError, match="flags"):
        criterion(logits, masks, Supervision(labels, supervised[:4], [5]), CONFIG)
    with pytest.raises(ValueError, match="differ in P, B or Q"):
        criterion(logits[:, :, :3], masks, Supervision(labels, supervised, [5]), CONFIG)


def test_diverged_predictions_are_named() -> None:
    logits, masks, labels = make_batch(predictions=3)
    supervised = torch.tensor([False, True, True, True, True])
    broken_logits, broken_masks = logits.clone(), masks.clone()
    broken_logits[2, 3, 0, 0], broken_masks[1, 1] = math.nan, math.inf
    with pytest.raises(FloatingPointError, match=r"frame 3 .*final prediction: class logits hold"):
        criterion(broken_logits, masks, Supervision(labels, supervised, [5]), CONFIG)
    with pytest.raises(FloatingPointError, match=r"frame 1 .*prediction 1 .*: mask logits hold"):
        criterion(logits, broken_masks, Supervision(labels, supervised, [5]), CONFIG)


RANK = """
import sys, torch, torch.distributed as dist
sys.path[:0] = sys.argv[3:]
from test_criterion import CONFIG, Recorder, Supervision, by_clip, criterion, make_batch
rank = int(sys.argv[1])
store = dist.FileStore(sys.argv[2], 2)
dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
logits, masks, labels = make_batch(seed=rank)
supervised = torch.arange(5) < (1, 5)[rank]
print(criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder()))["loss_mask"].item())
dist.destroy_process_group()
"""


def test_ranks_share_the_mean_number_of_targets(tmp_path: Path) -> None:
    here = Path(__file__).parent
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen(
            [*command, str(r), str(tmp_path / "store"), str(here), str(here.parent)], stdout=subprocess.PIPE, text=True
        )
        for r in range(2)
    ]
    shared = [float(r.communicate()[0]) for r in ranks]
    alone, counts = [], []
    for rank, supervised in enumerate((torch.arange(5) < 1, torch.arange(5) < 5)):
        logits, masks, labels = make_batch(seed=rank)
        losses = criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder()))
        alone.append(losses["loss_mask"].item())
        counts.append(sum(frame_targets(labels, supervised, CLASSES).counts))
    assert counts[0] != counts[1]
    expected = [a * n / np.mean(counts) for a, n in zip(alone, counts, strict=True)]
    assert shared == pytest.approx(expected, rel=1e-5)
