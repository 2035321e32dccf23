"""Metrics against the loops that they replace, in every protocol; empty truth and absent classes."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from combo_avs.pipeline.evaluate.clip import THRESHOLDS, binary_counts, class_counts
from combo_avs.pipeline.evaluate.metrics import BinaryMetrics, ClipScore, SemanticMetrics, make_metrics
from combo_avs.pipeline.evaluate.protocols import BINARY, SEMANTIC, find_protocol

SEEDS = st.integers(0, 10_000)
BINARY_NAMES = (*BINARY, "avsbench-bs1", "avsbench-bs3")


def binary_clip(seed: int, frames: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores with ties at 0, saturation and neighbours of one half; frames of truth may be empty or full."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, rng.choice([0.1, 2, 50]), (frames, 6, 7)).astype(np.float32)
    special = np.array([0, 0, 1e-7, -1e-7, 3e-7, math.inf, -math.inf, 200, -200], np.float32)
    scores = np.where(rng.random(scores.shape) < 0.3, rng.choice(special, scores.shape), scores)
    truth = rng.random(scores.shape) < rng.choice([0, 0.3, 1], (frames, 1, 1))
    return torch.from_numpy(scores), torch.from_numpy(truth.astype(np.uint8))


def binary_clips(seed: int, clips: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Clips of 1 to 4 annotated frames."""
    return [binary_clip(seed + i, frames=1 + (seed + i) % 4) for i in range(clips)]


def slow_frames(scores: torch.Tensor, truth: torch.Tensor) -> list[tuple[float, float, list[float] | None, float]]:
    """Published loops: 255 passes over the pixels, float32 thresholds, small constants in denominators.

    For each frame J, strict J, the curve of F (None where the truth is empty) and F at one half.
    """

    def f_measure(predicted: torch.Tensor, target: torch.Tensor) -> float:
        hits = (predicted * target).sum()
        precision, recall = hits / (predicted.sum() + 1e-20), hits / (target.sum() + 1e-20)
        return torch.nan_to_num(1.3 * precision * recall / (0.3 * precision + recall)).item()

    frames = []
    for p, target in zip(scores.sigmoid(), truth.float(), strict=True):
        mask = (p > 0.5).float()
        if target.sum() == 0:
            frames.append(((1 - mask).double().mean().item(), float(mask.sum() == 0), None, 0.0))
        else:
            j = ((mask * target).sum() / (((mask + target) > 0).sum() + 1e-7)).item()
            curve = [f_measure((p >= t).float(), target) for t in torch.linspace(0, 1 - 1e-10, 255)]
            frames.append((j, j, curve, f_measure(mask, target)))
    return frames


def slow_binary(name: str, clips: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[float, float]:
    """M_J and M_F as docs/metrics.md words them."""
    frames = [slow_frames(*clip) for clip in clips]
    per_call = {"published": 1, "strict-empty": 1, "dataset-f": len(clips), "hard": len(clips)}.get(name)
    per_call = per_call or int(name.removeprefix("avsbench-bs"))
    j, f = [], []
    for start in range(0, len(clips), per_call):
        call = [frame for clip in frames[start : start + per_call] for frame in clip]
        j.append(np.mean([frame[1 if name == "strict-empty" else 0] for frame in call]))
        curves = [[frame[3]] if name == "hard" else frame[2] for frame in call if frame[2] is not None]
        f.append(np.mean(curves, axis=0).max() if curves else 0.0)
    return float(np.mean(j)), float(np.mean(f))


def score(metrics: BinaryMetrics, clips: list[tuple[torch.Tensor, torch.Tensor]]) -> BinaryMetrics:
    for clip in clips:
        metrics.update(binary_counts(*clip), len(clip[1]))
    return metrics


def test_one_pass_counts_exactly_what_one_pass_per_threshold_does() -> None:
    near = torch.logit(THRESHOLDS.double()).float()
    steps = [near]
    for towards in (math.inf, -math.inf):
        moved = near
        for _ in range(3):
            moved = torch.nextafter(moved, torch.tensor(towards))
            steps.append(moved)
    scores = torch.cat([*steps, torch.tensor([0.0, 1e-8, 1e-7, math.inf, -math.inf])])[None, None]
    truth = torch.arange(scores.numel())[None, None] % 3 == 0
    counts, p = binary_counts(scores, truth), scores.sigmoid()
    edges = [*(p >= t for t in THRESHOLDS[:128]), p > 0.5, *(p >= t for t in THRESHOLDS[128:])]
    assert len({int(e.sum()) for e in edges}) > 250  # the scores do fall between the thresholds
    hits_TE, predicted_TE = counts.curves_2TE
    assert predicted_TE[0].tolist() == [int(e.sum()) for e in edges]
    assert hits_TE[0].tolist() == [int((e & truth).sum()) for e in edges]


@settings(deadline=None, max_examples=15)
@given(seed=SEEDS, classes=st.integers(2, 5))
def test_areas_of_two_classes_are_those_of_background_and_object(seed: int, classes: int) -> None:
    """Where no score lies within rounding of one half, both ways of counting agree."""
    scores, truth = binary_clip(seed)
    scores = torch.where(scores.abs() < 1e-3, 1.0, scores)
    binary, semantic = binary_counts(scores, truth), class_counts((scores > 0).byte(), truth, classes)
    np.testing.assert_array_equal(binary.areas_3TK, semantic.areas_3TK[..., :2])


@settings(deadline=None, max_examples=15)
@given(seed=SEEDS, clips=st.integers(1, 5))
def test_binary_protocols_equal_their_loops(seed: int, clips: int) -> None:
    data = binary_clips(seed, clips)
    for name in BINARY_NAMES:
        result = score(make_metrics(find_protocol(name, 2), 2), data).result()
        np.testing.assert_allclose([result.M_J, result.M_F], slow_binary(name, data), atol=1e-6, err_msg=name)
        assert (result.clips, result.frames) == (clips, sum(len(truth) for _, truth in data))
        assert result.empty_frames == sum(int((truth.flatten(1).sum(1) == 0).sum()) for _, truth in data)


def test_a_result_leaves_the_accumulator_as_it_was() -> None:
    data = binary_clips(3, 4)
    for name in BINARY_NAMES:
        metrics, undisturbed = BinaryMetrics(find_protocol(name, 2)), BinaryMetrics(find_protocol(name, 2))
        for clip in data:
            metrics.update(binary_counts(*clip), len(clip[1]))
            metrics.result()
        assert metrics.result() == score(undisturbed, data).result(), name


def test_the_last_call_may_hold_fewer_clips() -> None:
    """Three clips at two per call: a call of two and a call of one."""
    data = binary_clips(0, 3)
    pair = find_protocol("avsbench-bs2", 2)
    whole, first, last = (score(BinaryMetrics(pair), clips).result() for clips in (data, data[:2], data[2:]))
    assert pytest.approx((first.M_J + last.M_J) / 2, abs=1e-11) == whole.M_J
    assert pytest.approx((first.M_F + last.M_F) / 2, abs=1e-11) == whole.M_F


@settings(deadline=None, max_examples=15)
@given(seed=SEEDS, clips=st.integers(2, 6))
def test_what_depends_on_the_order_of_clips(seed: int, clips: int) -> None:
    data = binary_clips(seed, clips)
    for name in ("published", "dataset-f", "strict-empty", "hard"):
        protocol = BINARY[name]
        there, back = score(BinaryMetrics(protocol), data), score(BinaryMetrics(protocol), data[::-1])
        assert there.result() == back.result(), name


def test_the_f_of_batches_depends_on_the_order_of_clips() -> None:
    """The two clips have their best thresholds far apart; alone each is perfect."""
    truth = torch.zeros(1, 4, 4, dtype=torch.bool)
    truth[:, :2] = True
    low = (torch.where(truth, -3.0, -6.0), truth)
    high = (torch.where(truth, 6.0, 3.0), truth)
    orders = {"sorted": [low, low, high, high], "mixed": [low, high, low, high]}
    f = {k: score(BinaryMetrics(find_protocol("avsbench-bs2", 2)), v).result().M_F for k, v in orders.items()}
    assert f["sorted"] == 1
    assert f["mixed"] < 0.9
    assert all(score(BinaryMetrics(BINARY["published"]), v).result().M_F == 1 for v in orders.values())


def test_truth_itself_scores_one_in_every_protocol() -> None:
    truth = torch.zeros(2, 4, 4, dtype=torch.bool)
    truth[:, 1:3] = True
    for name in BINARY_NAMES:
        metrics = BinaryMetrics(find_protocol(name, 2))
        hard = torch.where(truth, math.inf, -math.inf)
        assert metrics.update(binary_counts(hard, truth), 2) == ClipScore(1.0, 1.0, (1.0, 1.0), (None, None))
        assert (metrics.result().M_J, metrics.result().M_F) == (1.0, 1.0)
    opposite = torch.where(truth, -100.0, 100.0)
    values = BinaryMetrics(BINARY["published"]).update(binary_counts(opposite, truth), 2)
    assert pytest.approx((0.0, 0.65 / 1.15)) == (values.J, values.F)  # at threshold 0 everything is predicted
    hard_values = BinaryMetrics(BINARY["hard"]).update(binary_counts(opposite, truth), 2)
    assert hard_values == ClipScore(0.0, 0.0, (0.0, 0.0), (None, None))


def test_empty_truth() -> None:
    scores = torch.full((1, 2, 8), -9.0)
    scores[0, 0, :4] = 9.0
    empty = torch.zeros(1, 2, 8)
    published, strict = BinaryMetrics(BINARY["published"]), BinaryMetrics(BINARY["strict-empty"])
    assert published.update(binary_counts(scores, empty), 1) == ClipScore(
        0.75, 0.0, (0.75,), (0.25,)
    )  # true background
    assert published.update(binary_counts(scores.clamp(max=-1), empty), 1) == ClipScore(1.0, 0.0, (1.0,), (0.0,))
    assert strict.update(binary_counts(scores, empty), 1) == ClipScore(0.0, 0.0, (0.0,), (0.25,))
    assert strict.update(binary_counts(scores.clamp(max=-1), empty), 1) == ClipScore(1.0, 0.0, (1.0,), (0.0,))
    result = published.result()
    assert (result.M_J, result.M_F, strict.result().M_J) == (0.875, 0.0, 0.5)
    assert (result.clips, result.empty_frames) == (2, 2)


def test_half_precision_scores() -> None:
    scores, truth = binary_clip(1)
    scores = scores.to(torch.bfloat16)
    half, full = binary_counts(scores, truth), binary_counts(scores.float(), truth)
    np.testing.assert_array_equal(half.curves_2TE[1], full.curves_2TE[1])


def test_wrong_binary_input_is_named() -> None:
    scores = torch.zeros(2, 4, 4)
    with pytest.raises(ValueError, match="value 255"):
        binary_counts(scores, torch.full((2, 4, 4), 255, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"value 0\.5"):
        binary_counts(scores, scores + 0.5)
    with pytest.raises(ValueError, match="not a number"):
        binary_counts(scores + math.nan, torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match=r"\[2, 4, 4\] and truth \[1, 4, 4\]"):
        binary_counts(scores, torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="not empty"):
        binary_counts(scores[:0], torch.zeros(0, 4, 4))
    with pytest.raises(ValueError, match="no clip was scored"):
        BinaryMetrics(BINARY["published"]).result()


def semantic_frames(seed: int, frames: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    predicted = rng.integers(0, rng.integers(1, classes + 1), (frames, 5, 6))
    truth = np.where(rng.random(predicted.shape) < 0.5, predicted, rng.integers(0, classes, predicted.shape))
    truth[rng.random(truth.shape) < 0.1] = 255
    return torch.from_numpy(predicted.astype(np.uint8)), torch.from_numpy(truth.astype(np.uint8))


def slow_class(predicted: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """J and F of two masks, at least one of them not empty."""
    hits = (predicted & truth).sum()
    precision, recall = hits / max(predicted.sum(), 1), hits / max(truth.sum(), 1)
    return hits / (predicted | truth).sum(), 1.3 * precision * recall / (0.3 * precision + recall) if hits else 0.0


def slow_semantic(name: str, predicted: np.ndarray, truth: np.ndarray, classes: int) -> tuple[float, float]:
    """M_J and M_F of the frames of one clip, as docs/metrics.md words them."""
    if "padded" in name:
        black = np.zeros((10 - len(truth), *truth.shape[1:]), truth.dtype)
        predicted, truth = np.concatenate([predicted, black]), np.concatenate([truth, black])
    values = []
    for k in range(classes):
        pairs = list(zip(predicted == k, truth == k, strict=True))
        if name.startswith("dataset"):
            pairs = [(predicted == k, truth == k)]
        seen = [slow_class(p, t) for p, t in pairs if (p | t).any()]
        values.append(np.mean(seen, axis=0) if seen else [math.nan, math.nan])
    table = np.array(values)
    if name == "dataset-confusion":
        return np.nan_to_num(table)[:, 0].mean(), np.nanmean(table[:, 1])
    if name.endswith("present"):
        return tuple(np.nanmean(table, axis=0))
    counted = slice(1, None) if name.endswith("no-background") else slice(classes - name.endswith("no-last-class"))
    return tuple(np.nan_to_num(table)[counted].mean(axis=0))


@settings(deadline=None, max_examples=15)
@given(seed=SEEDS, classes=st.integers(3, 9), frames=st.integers(1, 7))
def test_semantic_protocols_equal_their_loops(seed: int, classes: int, frames: int) -> None:
    predicted, truth = semantic_frames(seed, frames, classes)
    for name, protocol in SEMANTIC.items():
        metrics = SemanticMetrics(protocol, classes)
        metrics.update(class_counts(predicted, truth, classes), frames)
        result = metrics.result()
        expected = slow_semantic(name, predicted.numpy(), truth.numpy(), classes)
        np.testing.assert_allclose([result.M_J, result.M_F], expected, rtol=1e-9, atol=1e-11, err_msg=name)
        assert (result.clips, result.frames) == (1, frames)
        assert result.padded_frames == (10 - frames if "padded" in name else 0)
        seen = set(predicted.unique().tolist()) | set(truth.unique().tolist())
        assert set(result.absent) == set(range(classes)) - seen - ({0} if result.padded_frames else set())


@settings(deadline=None, max_examples=15)
@given(seed=SEEDS)
def test_semantic_scores_do_not_depend_on_the_order_of_clips(seed: int) -> None:
    clips = [class_counts(*semantic_frames(seed + i, 1 + i % 3, 5), 5) for i in range(6)]
    for name, protocol in SEMANTIC.items():
        there, back = SemanticMetrics(protocol, 5), SemanticMetrics(protocol, 5)
        for metrics, order in ((there, clips), (back, clips[::-1])):
            for counts in order:
                metrics.update(counts, 5)
        assert there.result() == back.result(), name


def test_padding_is_for_short_clips_alone() -> None:
    metrics = SemanticMetrics(SEMANTIC["avsbench-padded"], 3)
    predicted, truth = semantic_frames(0, 10, 3)
    metrics.update(class_counts(predicted, truth, 3), 10)
    assert metrics.result().padded_frames == 0
    metrics.update(class_counts(predicted[:1], truth[:1], 3), 5)  # one annotated frame of five
    assert (metrics.result().frames, metrics.result().padded_frames) == (11, 5)


def test_absent_classes_count_as_zero_and_ignored_pixels_as_predicted() -> None:
    truth = torch.zeros(1, 2, 4, dtype=torch.uint8)
    scores = {}
    for name in ("published", "published-present", "dataset-confusion", "dataset-confusion-present"):
        metrics = SemanticMetrics(SEMANTIC[name], 4)
        metrics.update(class_counts(truth, truth, 4), 1)
        assert metrics.result().absent == (1, 2, 3)
        scores[name] = metrics.result().M_J, metrics.result().M_F
    assert list(scores.values()) == [(0.25, 0.25), (1, 1), (0.25, 1), (1, 1)]
    ignored = truth.clone()
    ignored[0, 0] = 255
    metrics = SemanticMetrics(SEMANTIC["published"], 4)
    metrics.update(class_counts(truth, ignored, 4), 1)
    assert metrics.result().classes[0].J == 0.5


def test_a_stray_pixel_halves_a_class_by_frame_but_not_by_data_set() -> None:
    truth = torch.zeros(10, 10, 10, dtype=torch.uint8)
    truth[:5, :5] = 1
    predicted = truth.clone()
    predicted[5:, 0, 0] = 1
    j = {}
    for name in ("published", "dataset-confusion"):
        metrics = SemanticMetrics(SEMANTIC[name], 2)
        metrics.update(class_counts(predicted, truth, 2), 10)
        j[name] = metrics.result().classes[1].J
    assert j == {"published": 0.5, "dataset-confusion": 250 / 255}


def test_wrong_semantic_input_is_named() -> None:
    labels = torch.zeros(1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="true label is 7, but there are 4 classes"):
        class_counts(labels, labels + 7, 4)
    with pytest.raises(ValueError, match="predicted label is 255"):
        class_counts(labels + 255, labels, 4)
    with pytest.raises(ValueError, match="predicted label is -1"):
        class_counts(labels.long() - 1, labels, 4)
    with pytest.raises(ValueError, match="true label is -1"):
        class_counts(labels, labels.long() - 1, 4)
    with pytest.raises(ValueError, match="must be the same"):
        class_counts(labels, labels[0], 4)
    with pytest.raises(ValueError, match="no frame was scored"):
        SemanticMetrics(SEMANTIC["published"], 4).result()
    with pytest.raises(ValueError, match="1 classes"):
        SemanticMetrics(SEMANTIC["published"], 1)
    with pytest.raises(ValueError, match="256 classes"):
        SemanticMetrics(SEMANTIC["published"], 256)


def test_the_mask_of_j_is_no_threshold_of_f() -> None:
    """Truth lies above one half and below the next threshold, all else at one half: no threshold parts them."""
    truth = torch.tensor([[[1, 0]]], dtype=torch.uint8)
    counts = binary_counts(torch.tensor([[[0.01, 0.0]]]), truth)
    both = 1.3 * 0.5 * 1 / (0.3 * 0.5 + 1)
    published, hard = (BinaryMetrics(BINARY[name]).update(counts, 1) for name in ("published", "hard"))
    assert pytest.approx((1, both)) == (published.J, published.F)
    assert (hard.J, hard.F) == (1, 1)


def test_the_numbers_of_the_frames_of_a_clip() -> None:
    """One frame hit by half, one empty frame with two wrong pixels of 16; the clip is their mean."""
    truth, scores = torch.zeros(2, 4, 4), torch.full((2, 4, 4), -9.0)
    truth[0, 0], scores[0, 0, :2], scores[1, 3, :2] = 1, 9.0, 9.0
    for name, empty in (("published", 1 - 2 / 16), ("strict-empty", 0.0), ("dataset-f", 1 - 2 / 16)):
        found = BinaryMetrics(BINARY[name]).update(binary_counts(scores, truth), 2)
        assert (0.5, empty) == found.J_T
        assert found.area_T == (None, 2 / 16)
        assert sum(found.J_T) / 2 == found.J


def test_the_numbers_of_the_frames_of_a_clip_with_classes() -> None:
    """Classes 0, 1, 2. The first frame holds 1, hit by half; the second nothing, with a quarter predicted as 2."""
    truth, labels = torch.zeros(2, 2, 4, dtype=torch.uint8), torch.zeros(2, 2, 4, dtype=torch.uint8)
    truth[0, 0], labels[0, 0, :2], labels[1, 1, :2] = 1, 1, 2
    rows = {
        "published": ((4 / 6 + 0.5) / 2, (6 / 8 + 0) / 2),  # with background
        "published-no-background": (0.5, 0.0),
        "published-no-last-class": ((4 / 6 + 0.5) / 2, 6 / 8),
        "dataset-confusion": ((4 / 6 + 0.5) / 2, (6 / 8 + 0) / 2),
    }
    for name, j in rows.items():
        found = SemanticMetrics(SEMANTIC[name], 3).update(class_counts(labels, truth, 3), 2)
        assert pytest.approx(j) == found.J_T
        assert pytest.approx(sum(j) / 2) == found.J
        assert (found.F, found.area_T) == (None, (None, 0.25))
    right = class_counts(truth[1:], truth[1:], 3)
    nothing = SemanticMetrics(SEMANTIC["published-no-background"], 3).update(right, 1)
    assert nothing == ClipScore(None, None, (None,), (0.0,))  # no class to score
