"""Wrong edits of what an evaluation says of itself, and of where its results are read again."""

from .table import Mutant, edits

MUTANTS: list[Mutant] = [
    *edits(
        "pipeline/common/percent.py",
        "tests/pipeline/evaluate/test_results.py",
        ("a share is a thousandth", "else 100 * share", "else 1000 * share"),
        ("percent is taken for shares", 'if entry.get("unit") == PERCENT or', 'if entry.get("unit") != PERCENT or'),
        ("only M_J becomes percent", 'SCORES = ("M_J", "M_F")', 'SCORES = ("M_J",)'),
    ),
    *edits(
        "pipeline/evaluate/results.py",
        "tests/pipeline/evaluate/test_results.py",
        ("results of other steps are taken", '        "step": weights.step,\n', ""),
        ("results of other clips are taken", '        "clips_fingerprint": dataset.clips.fingerprint(),\n', ""),
        ("results of a changed cache are taken", '"proposals_fingerprint": contents(dataset.proposals, shards),', ""),
        (
            "results of other weights are taken",
            "if result.weights_sha256 != weights.sha256:",
            "if False:",
        ),
        ("a kept result never says that its run has finished", ', "finished": weights.finished}', "}"),
        ("a kept result says how many steps once were due", '"steps": weights.steps, ', ""),
        ("results of other sounds are taken", '        "sound": sound,\n        "dataset"', '        "dataset"'),
        ("another file replaces the best", "if result.weights in (BEST, LAST) else result.weights_sha256[:12]", ""),
        ("a result remembers where its run lay", '    del values["run"]  # it is where the file lies\n', ""),
    ),
    *edits(
        "pipeline/evaluate/run.py",
        "tests/pipeline/evaluate/test_results.py",
        (
            "only the first protocol is kept",
            "in results.items():\n            write",
            "in [*results.items()][:1]:\n            write",
        ),
        (
            "the best weights whatever is asked",
            "ranks.all_do(pick_device, device), choice)",
            "ranks.all_do(pick_device, device))",
        ),
    ),
    *edits(
        "pipeline/runs/open.py",
        "tests/pipeline/evaluate/test_results.py",
        ("every run is finished", "finished = last >= steps or", "finished = last <= steps or"),
        (
            "the last weights count as the whole training",
            'about["step"], steps, about["step"] >= steps)',
            "steps, steps, True)",
        ),
        (
            "weights of any network are loaded",
            "for key in ours if theirs[key] != ours[key]]",
            "for key in ours if False]",
        ),
    ),
    *edits(
        "pipeline/evaluate/metrics.py",
        "tests/pipeline/evaluate/test_metrics.py",
        (
            "the wrong area is counted in all frames",
            "_where(empty_T, predicted_T / pixels_T)",
            "_where(~empty_T, predicted_T / pixels_T)",
        ),
        (
            "background is an object",
            "predicted_TK[:, 1:].sum(axis=1) / predicted",
            "predicted_TK[:, 0:].sum(axis=1) / predicted",
        ),
    ),
    *edits(
        "pipeline/report/runs.py",
        "tests/pipeline/report/test_report.py",
        (
            "the frames are those of the first seed",
            "_mean_of_some(values) for values in zip(*rows, strict=True)",
            "values[0] for values in zip(*rows, strict=True)",
        ),
    ),
    *edits(
        "pipeline/report/scoring.py",
        "tests/pipeline/report/test_report.py",
        ("kept results are not read", "        if self.kept is not None:\n            return self.kept\n", ""),
    ),
    *edits(
        "pipeline/compare/grid.py",
        "tests/pipeline/test_finished_runs.py",
        (
            "an unfinished run has a result",
            "if newest_step(cell.folder) < cell.config.train.steps:\n        return None",
            "if False:\n        return None",
        ),
    ),
]
