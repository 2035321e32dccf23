"""Metrics by protocol against what the published evaluators printed for the same predictions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden import fixtures, load_arrays, load_json
from numpy.typing import ArrayLike

from combo_avs.pipeline.evaluate.clip import Counts, binary_counts, class_counts
from combo_avs.pipeline.evaluate.metrics import BinaryMetrics, BinaryResult, SemanticMetrics, SemanticResult
from combo_avs.pipeline.evaluate.protocols import SEMANTIC, SemanticProtocol, find_protocol

BINARY_SETS = fixtures("metrics", "binary.npz")
SEMANTIC_SETS = fixtures("metrics", "semantic.npz")
CLASSES = 71  # of AVSBench's semantic sets
ROUNDED = 5.1e-5  # the evaluators print four decimals
BATCHED = ("AVSBench", "AVSegFormer", "CATR", "COMBO", "COMBO_on_two_channel_0_logit")


def assert_close(actual: ArrayLike, expected: ArrayLike, tolerance: float = 1e-6) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def score_binary(name: str, scores: np.ndarray, truth: np.ndarray) -> tuple[BinaryResult, list[tuple[float, float]]]:
    """scores, truth: [clips, T, H, W]. Also gives J and F of each clip."""
    metrics = BinaryMetrics(find_protocol(name, 2))
    clips = [
        metrics.update(binary_counts(torch.from_numpy(s), torch.from_numpy(t)), len(t))
        for s, t in zip(scores, truth, strict=True)
    ]
    return metrics.result(), [(clip.J or 0, clip.F or 0) for clip in clips]


def foreground(scores: np.ndarray) -> np.ndarray:
    """Object - background of [clips, T, 2, H, W]."""
    return scores[:, :, 1] - scores[:, :, 0]


@pytest.mark.parametrize("evaluator", BATCHED if BINARY_SETS else ())
@pytest.mark.parametrize("name", BINARY_SETS)
def test_binary_at_every_batch_size(name: str, evaluator: str) -> None:
    arrays, printed = load_arrays("metrics", name), load_json("metrics", "expected_" + name)[evaluator]
    scores = foreground(arrays["combo_scores"]) if evaluator == "COMBO" else arrays["logits"]
    assert "batch_1_videos" in printed
    for batch, expected in printed.items():
        clips_per_call = int(batch.split("_")[1])
        result, _ = score_binary(f"avsbench-bs{clips_per_call}", scores, arrays["gt"])
        assert_close([result.M_J, result.M_F], [expected["M_J"], expected["M_F"]])
        if "reported" in expected:
            reported = expected["reported"]
            assert_close([result.M_J, result.M_F], [reported["mIoU"], reported["f_score"]], ROUNDED)
        for k, pair in enumerate(expected.get("per_batch", [])):
            call = slice(k * clips_per_call, (k + 1) * clips_per_call)
            result, _ = score_binary(f"avsbench-bs{len(scores)}", scores[call], arrays["gt"][call])
            assert_close([result.M_J, result.M_F], pair)


@pytest.mark.parametrize("name", BINARY_SETS)
def test_the_default_prints_what_papers_print(name: str) -> None:
    """With one clip per call: every clip's J and F, their means, and the counts beside them."""
    arrays, expected = load_arrays("metrics", name), load_json("metrics", "expected_" + name)
    result, clips = score_binary("published", arrays["logits"], arrays["gt"])
    printed = expected["AVSBench"]["batch_1_videos"]
    assert_close([result.M_J, result.M_F], [printed["M_J"], printed["M_F"]])
    assert_close(clips, expected["per_video_batch1_AVSBench"])
    empty = (arrays["gt"] == 0).all(axis=(2, 3)).sum()
    clip_count, frames = arrays["gt"].shape[:2]
    assert (result.clips, result.frames, result.empty_frames) == (clip_count, clip_count * frames, empty)


@pytest.mark.parametrize("name", BINARY_SETS)
def test_one_threshold_for_the_data_set(name: str) -> None:
    arrays = load_arrays("metrics", name)
    printed = load_json("metrics", "expected_" + name)["ACL_SSL_fixed_evaluator_sigmoid_prob_threshold_0.5"]
    result, _ = score_binary("dataset-f", arrays["logits"], arrays["gt"])
    assert_close([result.M_J, result.M_F], [printed["finalize_mIoU"], printed["finalize_Fmeasure"]])


@pytest.mark.parametrize("name", BINARY_SETS)
def test_stepping_stones_reads_two_logits_in_its_own_way(name: str) -> None:
    """No protocol: its F takes 2 x object - background, its J the plain difference; else it is `published`."""
    arrays, expected = load_arrays("metrics", name), load_json("metrics", "expected_" + name)
    two = {"two_channel_0_logit": np.stack([0 * arrays["logits"], arrays["logits"]], axis=2)}
    two["combo_scores"] = arrays["combo_scores"]
    for key, scores in two.items():
        printed = expected["SteppingStones_on_" + key]
        j, _ = score_binary("published", foreground(scores), arrays["gt"])
        f, _ = score_binary("published", 2 * scores[:, :, 1] - scores[:, :, 0], arrays["gt"])
        assert_close([j.M_J, f.M_F], [printed["M_J"], printed["M_F"]])


@pytest.mark.parametrize("name", fixtures("combo", "evaluator_binary.npz"))
def test_combo_binary_evaluator(name: str) -> None:
    arrays, spec = load_arrays("combo", name), load_json("combo", name)
    scores, truth = foreground(arrays["in.sem_seg"]), arrays["in.gt"]
    result, clips = score_binary("published", scores, truth)
    assert_close(clips, arrays["out.per_video_iou_f"], tolerance=1e-5)
    assert_close([result.M_J, result.M_F], [spec["final"]["mIoU"], spec["final"]["f_score"]], ROUNDED)
    (batched,) = (k for k in spec if k.startswith("final_if_batched_"))
    clips_per_call = batched.removeprefix("final_if_batched_").split("_")[0]
    result, _ = score_binary(f"avsbench-bs{clips_per_call}", scores, truth)
    assert_close([result.M_J, result.M_F], [spec[batched]["mIoU"], spec[batched]["f_score"]], ROUNDED)


def score_semantic(protocol: SemanticProtocol, arrays: dict[str, np.ndarray], black: str = "") -> SemanticResult:
    """black: the array of what is predicted for black frames behind 5-frame clips, to be scored as frames."""
    metrics = SemanticMetrics(protocol, CLASSES)
    for key in sorted(k.removesuffix("_gt") for k in arrays if k.endswith("_gt")):
        predicted, truth = (torch.from_numpy(arrays[f"{key}_{what}"]) for what in ("pred", "gt"))
        metrics.update(class_counts(predicted, truth, CLASSES), len(truth))
        if black and f"{key}_{black}" in arrays:
            stray = torch.from_numpy(arrays[f"{key}_{black}"])
            metrics.update(class_counts(stray, torch.zeros_like(stray), CLASSES), len(stray))
    return metrics.result()


@pytest.mark.parametrize(
    ("evaluator", "protocol", "black"),
    [
        ("COMBO", "published", ""),
        ("SteppingStones", "published", ""),
        ("AVSBench_padded_to_10_pad_predicted_background", "avsbench-padded", ""),
        ("AVSegFormer_padded_to_10_pad_predicted_background", "avsbench-padded", ""),
        # What padding costs where predictions in black frames are not reset to background.
        ("AVSBench_padded_to_10_with_padpred", "published", "padpred"),
    ]
    if SEMANTIC_SETS
    else (),
)
@pytest.mark.parametrize("name", SEMANTIC_SETS)
def test_semantic_by_frame(name: str, evaluator: str, protocol: str, black: str) -> None:
    arrays, printed = load_arrays("metrics", name), load_json("metrics", "expected_" + name)[evaluator]
    for over, suffix in {
        "all": "",
        "no-background": "_noBg_true",
        "no-last-class": "_noBg_upstream_slice_last",
        "present": "_present",
    }.items():
        result = score_semantic(replace(SEMANTIC[protocol], J_over=over, F_over=over), arrays, black)
        assert_close([result.M_J, result.M_F], [printed["mIoU" + suffix], printed["F" + suffix]])
    assert len(result.absent) == printed["absent"]
    table = np.array([(c.J, c.F, c.frames) for c in result.classes])
    assert_close(table, np.stack([printed["per_class_iou"], printed["per_class_f"], printed["count"]], axis=1))
    if "reported" in printed:
        result = score_semantic(SEMANTIC[protocol], arrays)
        reported = printed["reported"]
        assert_close([result.M_J, result.M_F], [reported["mIoU"], reported["f_score"]], ROUNDED)


@pytest.mark.parametrize("name", SEMANTIC_SETS)
def test_named_semantic_variants(name: str) -> None:
    arrays, expected = load_arrays("metrics", name), load_json("metrics", "expected_" + name)
    for protocol, evaluator, suffix in (
        ("published-no-background", "COMBO", "_noBg_true"),
        ("published-no-last-class", "COMBO", "_noBg_upstream_slice_last"),
        ("published-present", "COMBO", "_present"),
        (
            "avsbench-padded-no-last-class",
            "AVSBench_padded_to_10_pad_predicted_background",
            "_noBg_upstream_slice_last",
        ),
    ):
        result = score_semantic(SEMANTIC[protocol], arrays)
        assert_close([result.M_J, result.M_F], [expected[evaluator][m + suffix] for m in ("mIoU", "F")])


@pytest.mark.parametrize("name", SEMANTIC_SETS)
def test_semantic_from_the_pixels_of_all_frames(name: str) -> None:
    arrays, expected = load_arrays("metrics", name), load_json("metrics", "expected_" + name)
    cavp, ddeseg = expected["CAVP_dataset_level"], expected["DDESeg_style_dataset_level"]
    result = score_semantic(SEMANTIC["dataset-confusion"], arrays)
    assert_close(result.M_J, cavp["mIoU"])
    assert_close(result.M_F, cavp["F03"], ROUNDED)
    result = score_semantic(SEMANTIC["dataset-confusion-present"], arrays)
    assert_close([result.M_J, result.M_F], [ddeseg["mIoU"], ddeseg["F"]])
    assert_close(result.M_J, cavp["mIoU_present"])


@pytest.mark.parametrize("name", fixtures("combo", "evaluator_avss.npz"))
def test_combo_semantic_evaluator(name: str) -> None:
    arrays, spec = load_arrays("combo", name), load_json("combo", name)
    classes = len(arrays["out.class_count"])
    predicted, truth = (torch.from_numpy(arrays[f"in.{what}"]) for what in ("pred_labels", "gt"))
    counts = class_counts(predicted, truth, classes)
    results = {}
    for protocol in ("published", "published-no-last-class"):
        metrics, start = SemanticMetrics(SEMANTIC[protocol], classes), 0
        for frames in spec["frames_per_video"]:
            metrics.update(Counts(counts.areas_3TK[:, start : start + frames]), frames)
            start += frames
        results[protocol] = metrics.result()
    result, no_last = results.values()
    assert_close([result.M_J, result.M_F], [spec["final"]["mIoU"], spec["final"]["f_score"]], ROUNDED)
    logged = [spec["logged_miou_noBg_official"], spec["logged_f_noBg_official"]]
    assert_close([no_last.M_J, no_last.M_F], logged)
    assert (result.clips, result.frames) == (len(spec["frames_per_video"]), sum(spec["frames_per_video"]))
    sums = np.array([(c.J * c.frames, c.F * c.frames, c.frames) for c in result.classes])
    expected = np.stack([arrays["out.iou_sum"], arrays["out.f_sum"], arrays["out.class_count"]], axis=1)
    assert_close(sums, expected, tolerance=1e-5)
