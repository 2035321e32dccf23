"""Matching: every frame by its own numbers, however many there are, and what the sums are divided by."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from combo_avs.model import matcher
from combo_avs.model.criterion import CriterionConfig, Totals
from combo_avs.model.matcher import FRAMES_AT_ONCE, FrameTargets, all_costs, assign_few, frame_targets, match

WEIGHTS = (2.0, 5.0, 3.0)
POINTS = 7


def batch(frames: int, classes: int, queries: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Class logits, mask logits, labels, and supervision flags, two of three set."""
    rng = torch.Generator().manual_seed(frames)
    logits = torch.randn(2, frames, queries, classes + 1, generator=rng)
    masks = 3 * torch.randn(2, frames, queries, 4, 3, generator=rng)
    labels = torch.randint(classes, (frames, 16, 12), generator=rng, dtype=torch.uint8)
    labels[::4] = labels[::4].clamp(max=1)  # fewer targets than the others
    return logits, masks, labels, torch.arange(frames) % 3 != 1


@pytest.mark.parametrize("classes", [2, 4])
def test_frames_that_are_matched_together_are_matched_as_if_alone(classes: int) -> None:
    frames = 3 * FRAMES_AT_ONCE + 5  # two thirds are supervised: two whole portions and a rest
    logits, masks, labels, supervised = batch(frames, classes)
    rng = torch.Generator().manual_seed(1)
    points = [torch.rand(int(supervised.sum()), POINTS, 2, generator=rng) for _ in range(2)]
    drawn = iter(points)  # the last prediction's come first
    targets = frame_targets(labels, supervised, classes)
    pairs = match(logits, masks, targets, WEIGHTS, POINTS, lambda _: next(drawn))
    by_frame: list[list[Tensor]] = [[], []]
    for s, b in enumerate(supervised.nonzero()[:, 0].tolist()):
        one = frame_targets(labels[b : b + 1], torch.tensor([True]), classes)
        for p, given in enumerate(reversed(points)):
            of_frame = match(
                logits[p : p + 1, b : b + 1],
                masks[p : p + 1, b : b + 1],
                one,
                WEIGHTS,
                POINTS,
                lambda _, g=given, s=s: g[s : s + 1],
            )
            by_frame[p].append(of_frame[0] + torch.tensor([[s], [0], [0]]))
    for p in range(2):
        assert torch.equal(pairs[p], torch.cat(by_frame[p], dim=1))


def test_costs_of_every_frame_are_of_its_own_points_and_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Portions of any length give the same costs."""
    logits, masks, labels, supervised = batch(14, 3)
    targets = frame_targets(labels, supervised, 3)
    points = torch.rand(int(supervised.sum()), POINTS, 2, generator=torch.Generator().manual_seed(2))
    found = []
    for at_once in (100, 3, 1):
        monkeypatch.setattr(matcher, "FRAMES_AT_ONCE", at_once)
        found.append(all_costs(logits, masks, targets, WEIGHTS, POINTS, lambda _: points))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


@pytest.mark.parametrize(("queries", "most"), [(1, 1), (4, 1), (2, 2), (3, 2), (6, 2)])
def test_few_targets_are_assigned_as_by_the_hungarian_algorithm(queries: int, most: int) -> None:
    rng = np.random.default_rng(queries)
    counts = [int(n) for n in rng.integers(0, most + 1, 200)] + [most]
    classes = np.full((len(counts), most), -1)
    for row, count in zip(classes, counts, strict=True):
        row[:count] = np.sort(rng.permutation(5)[:count])
    costs = rng.normal(size=(2, len(counts), queries, most)).astype(np.float32)
    costs[:, ::2] *= 0.01  # clashes are common and close
    targets = FrameTargets(
        torch.arange(len(counts)), torch.zeros(len(counts), 1, 1, dtype=torch.uint8), torch.from_numpy(classes), counts
    )
    pairs = assign_few(torch.from_numpy(costs), targets)
    for p in range(2):
        expected = []
        for s, count in enumerate(counts):
            query, target = linear_sum_assignment(costs[p, s, :, :count])
            expected += [[s, q, classes[s, t]] for q, t in zip(query, target, strict=True)]
        assert pairs[p].T.tolist() == expected


def test_two_targets_for_one_query() -> None:
    """The cheaper one gets it."""
    logits = torch.tensor([[[[0.0, 3.0, 0.0]]]])
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[:, :2] = 1
    targets = frame_targets(labels, torch.tensor([True]), 2)
    pairs = match(logits, torch.zeros(1, 1, 1, 1, 1), targets, (1.0, 0.0, 0.0), POINTS, torch.rand)
    assert pairs.tolist() == [[[0], [0], [1]]]


def test_large_costs_do_not_hide_small_ones() -> None:
    """Sums of which float32 would lose the difference."""
    classes = torch.tensor([[0, 1]])
    targets = FrameTargets(torch.tensor([0]), torch.zeros(1, 1, 1, dtype=torch.uint8), classes, [2])
    costs = torch.tensor([[2.0**25, 1.0], [2.0**25, 1 + 2.0**-20], [2.0**27, 9.0]])[None, None]
    assert assign_few(costs, targets).tolist() == [[[0, 0], [0, 1], [1, 0]]]


@pytest.mark.parametrize("classes", [2, 3])
def test_infinite_costs_are_an_error(classes: int) -> None:
    """Of logits that are finite themselves, but whose sum is not."""
    logits, masks, labels, supervised = batch(2, classes)
    labels[:, :2, :2] = 255  # where the points lie: no cost is infinity less infinity
    targets = frame_targets(labels, supervised, classes)
    with pytest.raises(FloatingPointError, match="matching costs of frame 0 of the batch are not finite"):
        match(logits, torch.full_like(masks, 1e38), targets, WEIGHTS, 50, lambda shape: torch.full(shape, 0.02))


def test_targets_of_a_frame() -> None:
    labels = torch.tensor(
        [[[0, 0, 255]], [[2, 0, 1]], [[9, 9, 9]], [[255, 255, 255]], [[2, 255, 2]]], dtype=torch.uint8
    )
    supervised = torch.tensor([True, True, False, True, True])
    targets = frame_targets(labels, supervised, 3)
    assert targets.frames_S.tolist() == [0, 1, 3, 4]
    assert torch.equal(targets.labels_SHW, labels[[0, 1, 3, 4]])
    assert targets.classes_SN.tolist() == [[0, -1, -1], [0, 1, 2], [-1, -1, -1], [2, -1, -1]]
    assert targets.counts == [1, 3, 0, 1]
    assert targets.matched(2) == [1, 2, 0, 1]
    supervised[2] = True
    with pytest.raises(ValueError, match=r"frame 2 of the batch holds label 9, but there are 3 classes"):
        frame_targets(labels, supervised, 3)
    with pytest.raises(ValueError, match=r"frame 4 of the batch holds label 2, but there are 2 classes"):
        frame_targets(labels, torch.tensor([True, False, False, True, True]), 2)


def counted(counts: list[int]) -> FrameTargets:
    none = torch.zeros(0)
    return FrameTargets(none, none, none, counts)


class TestTotals:
    config = CriterionConfig(no_object=0.25)

    def test_sums_over_the_batch(self) -> None:
        totals = Totals.of(counted([1, 3, 0]), 8, [5, 10], self.config)
        assert totals == Totals(class_weight=4 + 0.25 * 20, targets=4.0, neighbours=12.0)

    def test_whole_clips_have_more_neighbours(self) -> None:
        config = self.config.model_copy(update={"consistency_clip": "whole"})
        assert Totals.of(counted([1]), 8, [5, 10], config).neighbours == 13

    def test_targets_without_a_query_count_as_targets(self) -> None:
        assert Totals.of(counted([5, 1]), 2, [5], self.config)[:2] == (3 + 0.25 * 1, 6.0)

    def test_without_targets_masks_are_divided_by_one(self) -> None:
        assert Totals.of(counted([0, 0]), 4, [5], self.config)[:2] == (0.25 * 8, 1.0)

    @pytest.mark.parametrize(("mine", "others", "mean"), [([1], [0, 0], 1.0), ([3], [4, 0], 3.5)])
    def test_means_over_ranks(
        self, monkeypatch: pytest.MonkeyPatch, mine: list[int], others: list[int], mean: float
    ) -> None:
        """At least one target: after the mean, not before it."""
        of_others = Totals.of(counted(others), 4, [5, 5], self.config)

        def all_reduce(sums: Tensor) -> None:
            sums += torch.tensor([of_others.class_weight, sum(others), of_others.neighbours])

        ranks = SimpleNamespace(
            is_available=lambda: True, is_initialized=lambda: True, all_reduce=all_reduce, get_world_size=lambda: 2
        )
        alone = Totals.of(counted(mine), 4, [5], self.config)
        monkeypatch.setattr("combo_avs.model.criterion.dist", ranks)
        totals = Totals.of(counted(mine), 4, [5], self.config)
        assert totals.targets == mean
        assert totals.neighbours == (4 + 8) / 2
        assert math.isclose(totals.class_weight, (alone.class_weight + of_others.class_weight) / 2, rel_tol=1e-6)
