"""Wrong edits of frozen models."""

from .table import Mutant, edits

CANDIDATES = "tests/model/foundation/test_mask_candidates.py"

MUTANTS: list[Mutant] = [
    *edits(
        "model/foundation/mask_candidates.py",
        CANDIDATES,
        (
            "a predicted IoU may equal its threshold",
            "return predicted_iou > threshold if",
            "return predicted_iou >= threshold if",
        ),
        (
            "a stability must exceed its threshold",
            "(stability >= config.stability_score_thresh)",
            "(stability > config.stability_score_thresh)",
        ),
        (
            "logits at the raised threshold are in",
            "logits_KHW > threshold + offset",
            "logits_KHW >= threshold + offset",
        ),
        ("boxes end behind their last pixel", "width - 1 - columns", "width - columns"),
        (
            "holes of just the least area are filled",
            "(hole_areas < min_area)[holes]",
            "(hole_areas <= min_area)[holes]",
        ),
        ("changed masks come first", "(~changed).float()", "changed.float()"),
    ),
    *edits(
        "model/audio/logmel.py",
        "tests/model/audio/test_audio_encoders.py",
        ("means in units of two nepers", "_MEAN_SCALE = 4.0", "_MEAN_SCALE = 2.0"),
        ("mean absolute deviation", ".square().mean(dim=1).sqrt()", ".abs().mean(dim=1)"),
    ),
    *edits(
        "model/audio/vggish.py",
        "tests/model/audio/test_audio_encoders.py",
        ("projection by the transpose", "@ eigen_vectors.T", "@ eigen_vectors"),
        ("precision of products stays changed", "torch.set_float32_matmul_precision(before)", "pass"),
    ),
]
