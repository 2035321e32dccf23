"""Metrics against the loops that they replace, and their conventions for empty truth and absent classes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from combo_avs.pipeline.metrics import BinaryMetrics, SemanticMetrics

SEEDS = st.integers(0, 10_000)


def binary_clip(seed: int, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores with ties at 0, saturation and neighbours of one half; frames of truth may be empty or full."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, rng.choice([0.1, 2, 50]), (frames, 6, 7)).astype(np.float32)
    special = np.array([0, 0, 1e-7, -1e-7, 3e-7, math.inf, -math.inf, 200, -200], np.float32)
    scores = np.where(rng.random(scores.shape) < 0.3, rng.choice(special, scores.shape), scores)
    truth = rng.random(scores.shape) < rng.choice([0, 0.3, 1], (frames, 1, 1))
    return torch.from_numpy(scores), torch.from_numpy(truth.astype(np.uint8))


def slow_binary(scores: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Published loops: 255 passes over the pixels, float32 thresholds, small constants in denominators."""
    p, g = scores.sigmoid(), truth.float()
    j = []
    for frame, target in zip(p > 0.5, g, strict=True):
        if target.sum() == 0:
            j.append((~frame).double().mean().item())
        else:
            union = ((frame.float() + target) > 0).sum()
            j.append(((frame.float() * target).sum() / (union + 1e-7)).item())
    curves = []
    for frame, target in zip(p, g, strict=True):
        if target.sum() > 0:
            curve = []
            for threshold in torch.linspace(0, 1 - 1e-10, 255):
                predicted = (frame >= threshold).float()
                hits = (predicted * target).sum()
                precision, recall = hits / (predicted.sum() + 1e-20), hits / (target.sum() + 1e-20)
                curve.append(torch.nan_to_num(1.3 * precision * recall / (0.3 * precision + recall)).item())
            curves.append(curve)
    return float(np.mean(j)), float(np.mean(curves, axis=0).max()) if curves else 0.0


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS)
def test_one_pass_equals_255_passes(seed: int) -> None:
    scores, truth = binary_clip(seed)
    assert BinaryMetrics().update(scores, truth) == pytest.approx(slow_binary(scores, truth), abs=1e-6)


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, cut=st.integers(1, 5))
def test_only_the_published_f_depends_on_what_a_call_holds(seed: int, cut: int) -> None:
    scores, truth = binary_clip(seed, frames=6)
    whole, parts = BinaryMetrics(), BinaryMetrics()
    j, f = whole.update(scores, truth)
    for s in (slice(0, cut), slice(cut, 6)):
        parts.update(scores[s], truth[s])
    one, two = whole.result(), parts.result()
    np.testing.assert_allclose(one.M_F_dataset, two.M_F_dataset, rtol=1e-12)
    assert (one.frames, one.empty_frames) == (two.frames, two.empty_frames)
    assert (one.clips, two.clips) == (1, 2)
    np.testing.assert_allclose([one.M_J, one.M_F], [j, f])
    assert all(0 <= x <= 1 for x in (j, f, one.M_F_dataset, one.M_J_strict, two.M_J, two.M_F))


def test_truth_itself_scores_one() -> None:
    truth = torch.zeros(2, 4, 4, dtype=torch.bool)
    truth[:, 1:3] = True
    metrics = BinaryMetrics()
    assert metrics.update(torch.where(truth, 100.0, -100.0), truth) == (1.0, 1.0)
    assert metrics.update(torch.where(truth, -100.0, 100.0), truth) == pytest.approx((0.0, 0.65 / 1.15))
    result = metrics.result()
    np.testing.assert_allclose([result.M_J, result.M_F], [0.5, (1 + 0.65 / 1.15) / 2])


def test_empty_truth() -> None:
    scores = torch.full((1, 2, 8), -9.0)
    scores[0, 0, :4] = 9.0
    metrics = BinaryMetrics()
    assert metrics.update(scores, torch.zeros(1, 2, 8)) == (0.75, 0.0)  # the share of true background
    assert metrics.update(scores.clamp(max=-1), torch.zeros(1, 2, 8)) == (1.0, 0.0)
    result = metrics.result()
    np.testing.assert_allclose(result.M_J_strict, 0.5)
    assert (result.clips, result.empty_frames) == (2, 2)
    np.testing.assert_allclose([result.M_F, result.M_F_dataset], 0)


def test_half_precision_scores() -> None:
    scores, truth = binary_clip(1)
    scores = scores.to(torch.bfloat16)
    assert BinaryMetrics().update(scores, truth) == BinaryMetrics().update(scores.float(), truth)


def test_wrong_binary_input_is_named() -> None:
    metrics, scores = BinaryMetrics(), torch.zeros(2, 4, 4)
    with pytest.raises(ValueError, match="value 255"):
        metrics.update(scores, torch.full((2, 4, 4), 255, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"value 0\.5"):
        metrics.update(scores, scores + 0.5)
    with pytest.raises(ValueError, match="not a number"):
        metrics.update(scores + math.nan, torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match=r"\[2, 4, 4\] and truth \[1, 4, 4\]"):
        metrics.update(scores, torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="not empty"):
        metrics.update(scores[:0], torch.zeros(0, 4, 4))
    with pytest.raises(ValueError, match="no clip was scored"):
        metrics.result()


def semantic_frames(seed: int, frames: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    predicted = rng.integers(0, rng.integers(1, classes + 1), (frames, 5, 6))
    truth = np.where(rng.random(predicted.shape) < 0.5, predicted, rng.integers(0, classes, predicted.shape))
    truth[rng.random(truth.shape) < 0.1] = 255
    return predicted.astype(np.uint8), truth.astype(np.uint8)


def slow_semantic(predicted: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """[K, 3]: mean J and F over the frames where a class is seen, and how many these are."""
    table = np.zeros((classes, 3))
    for k in range(classes):
        for frame, target in zip(predicted == k, truth == k, strict=True):
            if (frame | target).any():
                hits = (frame & target).sum()
                precision, recall = hits / max(frame.sum(), 1), hits / max(target.sum(), 1)
                f = 1.3 * precision * recall / (0.3 * precision + recall) if hits else 0.0
                table[k] += hits / (frame | target).sum(), f, 1
    table[:, :2] /= np.maximum(table[:, 2:], 1)
    return table


@settings(deadline=None, max_examples=25)
@given(seed=SEEDS, classes=st.integers(2, 9), cut=st.integers(1, 5))
def test_semantic_equals_loops_however_frames_are_grouped(seed: int, classes: int, cut: int) -> None:
    predicted, truth = semantic_frames(seed, 6, classes)
    metrics = SemanticMetrics(classes)
    for s in (slice(0, cut), slice(cut, 6)):
        metrics.update(torch.from_numpy(predicted[s]), torch.from_numpy(truth[s]))
    result, expected = metrics.result(), slow_semantic(predicted, truth, classes)
    np.testing.assert_allclose([(c.J, c.F, c.frames) for c in result.classes], expected)
    np.testing.assert_allclose([result.M_J, result.M_F], expected.mean(axis=0)[:2])
    assert result.absent == tuple(np.flatnonzero(expected[:, 2] == 0))
    assert result.frames == 6
    hits = np.array([((predicted == k) & (truth == k)).sum() for k in range(classes)])
    unions = np.array([((predicted == k) | (truth == k)).sum() for k in range(classes)])
    np.testing.assert_allclose(result.M_J_dataset, (hits[unions > 0] / unions[unions > 0]).mean())
    assert 0 <= result.M_F_dataset <= 1


def test_absent_classes_count_as_zero_and_ignored_pixels_as_predicted() -> None:
    truth = torch.zeros(1, 2, 4, dtype=torch.uint8)
    perfect, ignoring = SemanticMetrics(4), SemanticMetrics(4)
    perfect.update(truth, truth)
    np.testing.assert_allclose([perfect.result().M_J, perfect.result().M_J_dataset], [0.25, 1])
    assert perfect.result().absent == (1, 2, 3)
    ignored = truth.clone()
    ignored[0, 0] = 255
    ignoring.update(truth, ignored)
    np.testing.assert_allclose(ignoring.result().classes[0].J, 0.5)


def test_wrong_semantic_input_is_named() -> None:
    metrics, labels = SemanticMetrics(4), torch.zeros(1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="true label is 7, but there are 4 classes"):
        metrics.update(labels, labels + 7)
    with pytest.raises(ValueError, match="predicted label is 255"):
        metrics.update(labels + 255, labels)
    with pytest.raises(ValueError, match="predicted label is -1"):
        metrics.update(labels.long() - 1, labels)
    with pytest.raises(ValueError, match="must be the same"):
        metrics.update(labels, labels[0])
    with pytest.raises(ValueError, match="no frame was scored"):
        metrics.result()
    with pytest.raises(ValueError, match="1 classes"):
        SemanticMetrics(1)
