"""Wrong edits of frozen models."""

from .table import Mutant, edits

EVERYTHING = "tests/model/foundation/test_everything.py"
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
    *edits(
        "model/foundation/everything.py",
        EVERYTHING,
        (
            "masks 20 pixels from a crop's edge are whole",
            ".abs() <= EDGE, (boxes - frame_edges)",
            ".abs() < EDGE, (boxes - frame_edges)",
        ),
        (
            "crops overlap by part of the long side",
            "overlap_ratio * min(height, width)",
            "overlap_ratio * max(height, width)",
        ),
        ("crops are rounded down", "math.ceil((overlap", "math.floor((overlap"),
        (
            "points go column by column",
            "np.tile(one_side, per_side), np.repeat(one_side, per_side)",
            "np.repeat(one_side, per_side), np.tile(one_side, per_side)",
        ),
    ),
    *edits(
        "model/foundation/resize_maps.py",
        EVERYTHING,
        ("the encoder's sizes are truncated", "int(height * scale + 0.5)", "int(height * scale)"),
    ),
    *edits(
        "model/foundation/felzenszwalb.py",
        (EVERYTHING, "tests/model/foundation/test_proposals.py"),
        ("segments may agree to the threshold", ">= duplicate_iou", "> duplicate_iou"),
        ("smallest segments first", "np.lexsort((first, -areas))", "np.lexsort((first, areas))"),
        ("the last of equal segments first", "np.lexsort((first, -areas))", "np.lexsort((-first, -areas))"),
    ),
    *edits(
        "model/foundation/semantic_sam/generator.py",
        EVERYTHING,
        ("granularities exchanged", "{1: 3, 2: 2", "{1: 2, 2: 3"),
        ("stability as SAM wants it", "default=0.92", "default=0.95"),
    ),
    *edits(
        "model/weights/state.py",
        ("tests/model/weights/test_frozen.py", "tests/model/weights/test_published_keys.py"),
        ("any file passes for the published one", "not sha256.startswith(published)", "not sha256"),
    ),
]
