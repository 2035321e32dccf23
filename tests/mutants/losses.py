"""Wrong edits of matching, losses and inference."""

from .table import Mutant, edits

INFERENCE = "tests/model/test_inference.py"
COMBO = "tests/model/test_combo.py"
INITIAL = "tests/model/test_initial_values.py"
MATCHER = "tests/model/test_matcher.py"
LOSSES = ("tests/parity/test_criterion.py", "tests/model/test_criterion.py")

MUTANTS: list[Mutant] = [
    *edits(
        "model/criterion.py",
        MATCHER,
        ("no targets are two targets", "max(num_targets, 1.0)", "max(num_targets, 2.0)"),
        ("ranks add up their targets", "            sums /= dist.get_world_size()\n", ""),
        (
            "matched queries count as unmatched, too",
            "len(targets.counts) * num_queries - matched",
            "len(targets.counts) * num_queries",
        ),
        ("targets without a query are not counted", "sum(targets.counts), neighbours])", "matched, neighbours])"),
    ),
    *edits(
        "model/criterion.py",
        LOSSES,
        (
            "weights of mask and dice exchanged in the costs",
            "(config.class_weight, config.mask_weight, config.dice_weight)",
            "(config.class_weight, config.dice_weight, config.mask_weight)",
        ),
        ("background is weighted as no object", "weight_K[-1] = config.no_object", "weight_K[0] = config.no_object"),
        ("what fills up labels is background", "value=IGNORE_LABEL)", "value=0)"),
        ("masks of the wrong frames", "targets.frames_S[row_PM], query_PM]", "row_PM, query_PM]"),
        ("points where masks are surest", "largest=False, sorted", "largest=True, sorted"),
        (
            "the derivative ignores the exponential",
            "factor.detach() if detach else factor",
            "factor if detach else factor.detach()",
        ),
        (
            "the last prediction is not summed up",
            "torch.cat(list(terms.values())).sum()",
            "torch.cat([t[:-1] for t in terms.values()]).sum()",
        ),
    ),
    *edits(
        "model/criterion.py",
        "tests/model/test_criterion_parts.py",
        ("pairs of all clips draw from the first", "rows_of(uniform, pairs))", "rows_of(uniform, [sum(pairs)]))"),
        ("totals of the whole batch are ignored", "totals = totals or Totals.of(", "totals = Totals.of("),
        ("a part is divided by its own neighbours", "neighbours=totals.neighbours", "neighbours=None"),
        (
            "candidates are rounded up",
            "int(config.oversample * config.num_points)",
            "round(config.oversample * config.num_points)",
        ),
        ("the factor is never detached", "detach=config.consistency_detach", "detach=False"),
    ),
    *edits("model/criterion.py", COMBO, ("twice the weight of no object", "default=0.1", "default=0.2")),
    *edits(
        "model/criterion.py",
        INITIAL,
        ("small masks look alike", "+ 1e-12", "+ 1e-6"),
    ),
    *edits(
        "model/matcher.py",
        MATCHER,
        (
            "class logits of the first portion's frames",
            "logits_PBQK[p, frames_s]",
            "logits_PBQK[p, targets.frames_S[: len(frames_s)]]",
        ),
        (
            "mask logits of the first portion's frames",
            "masks_PBQhw[p, frames_s]",
            "masks_PBQhw[p, targets.frames_S[: len(frames_s)]]",
        ),
        ("labels of the first portion's frames", "targets.labels_SHW[s],", "targets.labels_SHW[: len(frames_s)],"),
        ("classes of the first portion's frames", "targets.classes_SN[s],", "targets.classes_SN[: len(frames_s)],"),
        ("points of the first portion's frames", "points_SR2[s],", "points_SR2[: len(frames_s)],"),
        (
            "every target gets a query, however few there are",
            "[min(count, num_queries) for count in self.counts]",
            "list(self.counts)",
        ),
        ("infinite costs pass", "if not np.isfinite(costs).all():", "if np.isnan(costs).any():"),
        ("two targets share one query", "<= min(2, num_queries)", "<= 2"),
        ("small costs are lost in large ones", "cost_PS2N.double().unbind", "cost_PS2N.unbind"),
        ("ignored pixels are a target", "present[:, IGNORE_LABEL] = False", "pass"),
        (
            "two targets may share a query",
            "(one[..., :, None] + other[..., None, :]).masked_fill(clash, torch.inf)",
            "one[..., :, None] + other[..., None, :]",
        ),
        (
            "queries of both targets exchanged",
            "best_PS1 // 2), of_other.gather(-1, best_PS1 % 2)",
            "best_PS1 % 2), of_other.gather(-1, best_PS1 // 2)",
        ),
    ),
    *edits(
        "model/matcher.py",
        LOSSES,
        ("dice without smoothing", "+ 1) / (areas_sQN + 1)", ") / (areas_sQN + 1)"),
        (
            "predictions in their own order",
            "(num_predictions - 1, *range(num_predictions - 1))",
            "tuple(range(num_predictions))",
        ),
    ),
    *edits(
        "model/inference.py",
        INFERENCE,
        (
            "foreground score as a difference of logarithms",
            "return scores_BKHW[:, 1] - scores_BKHW[:, 0]",
            "return scores_BKHW[:, 1].log() - scores_BKHW[:, 0].log()",
        ),
        ("masks enlarged to the frame instead of by four", "(4 * h, 4 * w)", "(height, width)"),
        (
            "the last of equal classes",
            "scores_BKHW.argmax(dim=1)",
            "(scores_BKHW.shape[1] - 1 - scores_BKHW.flip(1).argmax(dim=1))",
        ),
        ("no object takes no share", ".softmax(dim=-1)[..., :-1]", "[..., :-1].softmax(dim=-1)"),
        ("scores in half precision", "masks_bQhw.float()", "masks_bQhw"),
    ),
]
