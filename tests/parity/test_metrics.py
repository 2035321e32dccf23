"""Metrics against what the published evaluators printed for the same predictions."""

import numpy as np
import pytest
import torch
from golden import fixtures, load_arrays, load_json
from numpy.typing import ArrayLike

from combo_avs.pipeline.metrics import BinaryMetrics, BinaryResult, SemanticMetrics, SemanticResult

BINARY = fixtures("metrics", "binary.npz")
SEMANTIC = fixtures("metrics", "semantic.npz")
ROUNDED = 5.1e-5  # the evaluators print four decimals
EVALUATORS = ("AVSBench", "AVSegFormer", "CATR", "COMBO", "COMBO_on_two_channel_0_logit")


def assert_close(actual: ArrayLike, expected: ArrayLike, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def score_binary(scores: np.ndarray, truth: np.ndarray, clips_per_call: int) -> tuple[BinaryResult, list]:
    metrics = BinaryMetrics()
    starts = range(0, len(scores), clips_per_call)
    calls = [
        metrics.update(*(torch.from_numpy(a[i : i + clips_per_call]).flatten(0, 1) for a in (scores, truth)))
        for i in starts
    ]
    return metrics.result(), calls


@pytest.mark.parametrize("evaluator", EVALUATORS if BINARY else ())
@pytest.mark.parametrize("name", BINARY)
def test_binary_at_every_batch_size(name: str, evaluator: str) -> None:
    arrays, expected = load_arrays("metrics", name), load_json("metrics", "expected_" + name)
    scores = arrays["logits"]
    if evaluator == "COMBO":
        scores = arrays["combo_scores"][:, :, 1] - arrays["combo_scores"][:, :, 0]
    assert expected[evaluator]
    for batch, printed in expected[evaluator].items():
        result, calls = score_binary(scores, arrays["gt"], int(batch.split("_")[1]))
        assert_close([result.M_J, result.M_F], [printed["M_J"], printed["M_F"]])
        if "per_batch" in printed:
            assert_close(calls, printed["per_batch"])


@pytest.mark.parametrize("name", BINARY)
def test_binary_threshold_chosen_once(name: str) -> None:
    arrays = load_arrays("metrics", name)
    printed = load_json("metrics", "expected_" + name)["ACL_SSL_fixed_evaluator_sigmoid_prob_threshold_0.5"]
    for clips_per_call in (1, 5):
        result, _ = score_binary(arrays["logits"], arrays["gt"], clips_per_call)
        assert_close(result.M_F_dataset, printed["finalize_Fmeasure"])


@pytest.mark.parametrize("name", fixtures("combo", "evaluator_binary.npz"))
def test_combo_binary_evaluator(name: str) -> None:
    arrays, spec = load_arrays("combo", name), load_json("combo", name)
    scores = arrays["in.sem_seg"]
    result, calls = score_binary(scores[:, :, 1] - scores[:, :, 0], arrays["in.gt"], 1)
    assert_close(calls, arrays["out.per_video_iou_f"], tolerance=1e-5)
    assert_close([result.M_J, result.M_F], [spec["final"]["mIoU"], spec["final"]["f_score"]], ROUNDED)


def score_semantic(arrays: dict[str, np.ndarray], padding: str) -> SemanticResult:
    """padding: what is predicted for black frames behind 5-frame clips: "", "background" or an array."""
    metrics = SemanticMetrics(71)
    for key in sorted(k.removesuffix("_gt") for k in arrays if k.endswith("_gt")):
        truth, predicted = arrays[key + "_gt"], arrays[key + "_pred"]
        metrics.update(torch.from_numpy(predicted), torch.from_numpy(truth))
        if padding and f"{key}_padpred" in arrays:
            black = np.zeros_like(truth)
            predicted = black if padding == "background" else arrays[f"{key}_{padding}"]
            metrics.update(torch.from_numpy(predicted), torch.from_numpy(black))
    return metrics.result()


@pytest.mark.parametrize(
    ("evaluator", "padding"),
    [
        ("COMBO", ""),
        ("SteppingStones", ""),
        ("AVSBench_padded_to_10_pad_predicted_background", "background"),
        ("AVSegFormer_padded_to_10_pad_predicted_background", "background"),
        ("AVSBench_padded_to_10_with_padpred", "padpred"),
    ]
    if SEMANTIC
    else (),
)
@pytest.mark.parametrize("name", SEMANTIC)
def test_semantic(name: str, evaluator: str, padding: str) -> None:
    printed = load_json("metrics", "expected_" + name)[evaluator]
    result = score_semantic(load_arrays("metrics", name), padding)
    assert_close([result.M_J, result.M_F], [printed["mIoU"], printed["F"]])
    foreground = [result.M_J_foreground, result.M_F_foreground]
    assert_close(foreground, [printed["mIoU_noBg_true"], printed["F_noBg_true"]])
    assert len(result.absent) == printed["absent"]
    table = np.array([(c.J, c.F, c.frames) for c in result.classes])
    expected = np.stack([printed["per_class_iou"], printed["per_class_f"], printed["count"]], axis=1)
    assert_close(table, expected)


@pytest.mark.parametrize("name", SEMANTIC)
def test_semantic_from_the_pixels_of_all_frames(name: str) -> None:
    expected = load_json("metrics", "expected_" + name)
    result = score_semantic(load_arrays("metrics", name), "")
    skipping, as_zero = expected["DDESeg_style_dataset_level"], expected["CAVP_dataset_level"]
    assert_close([result.M_J_dataset, result.M_F_dataset], [skipping["mIoU"], skipping["F"]])
    present = 1 - len(result.absent) / len(result.classes)
    assert_close(result.M_J_dataset * present, as_zero["mIoU"])


@pytest.mark.parametrize("name", fixtures("combo", "evaluator_avss.npz"))
def test_combo_semantic_evaluator(name: str) -> None:
    arrays, spec = load_arrays("combo", name), load_json("combo", name)
    metrics = SemanticMetrics(len(arrays["out.class_count"]))
    metrics.update(torch.from_numpy(arrays["in.pred_labels"]), torch.from_numpy(arrays["in.gt"]))
    result = metrics.result()
    assert_close([result.M_J, result.M_F], [spec["final"]["mIoU"], spec["final"]["f_score"]], ROUNDED)
    sums = np.array([(c.J * c.frames, c.F * c.frames, c.frames) for c in result.classes])
    expected = np.stack([arrays["out.iou_sum"], arrays["out.f_sum"], arrays["out.class_count"]], axis=1)
    assert_close(sums, expected, tolerance=1e-5)
