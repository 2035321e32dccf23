"""Does it learn, from the sound, and what does each part of COMBO add? Writes docs/learning.md.

    OMP_NUM_THREADS=1 python benchmarks/learning.py --out study

Makes the synthetic sets and their caches, trains and scores every variant with every seed (`combo compare`), and
writes the page. Stop it at any time: it resumes when it is run again, and `--table` writes the page from what is
there. Fails when the model does not clearly need the right sound.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev

from combo_avs.data.sources.synthetic.source import Flavour, SyntheticSource
from combo_avs.errors import ComboError
from combo_avs.files import write_atomic
from combo_avs.pipeline.compare.grid import Comparison, compare, tabulate
from combo_avs.pipeline.compare.table import Row, Table, spread
from combo_avs.pipeline.compare.variants import RECIPE, plan_variants
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.imports.truth import write_truth_proposals
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans

FLAVOURS: dict[Flavour, str] = {
    "ms3": "several sources: one or two of two to four objects sound, changing by the second",
    "avss": "semantic: as MS3, with clips of 5 and 10 frames, and the kind of object is to be named, of six",
    "s4": "single source: one of two to four objects sounds; only the first frame of a training clip is labelled",
}
CLIPS, SIZE, SHARD_FRAMES = 240, 64, 100
SEEDS = (0, 1, 2)
SOUNDS = ("right", "swapped", "silent", "noise")
PROPOSALS, AUDIO = "felzenszwalb", "logmel"
OVERRIDES = ("train.steps=300", "train.evaluate_every=300", "train.checkpoint_every=100")
OVERS = {
    "siam=none": "without Siam-Encoder, so without Maskiges",
    "fusion=none": "without Bilateral-Fusion",
    "consistency_weight=0": "without the consistency loss",
    "audio_queries=published": "sound of queries laid out as in the released code",
    "proposals=none": "Maskiges without any mask",
    "proposals=ground-truth": "Maskiges of all objects' true segments, sounding or not",
}
MARGIN = 20  # points of M_J: by so much right sound must beat swapped sound, with every seed and flavour
PAGE = Path(__file__).parents[1] / "docs" / "learning.md"


def study(flavour: Flavour, out: Path, train_missing: bool) -> Table:
    """All scores of one flavour; with `train_missing`, everything that is not there yet is made first."""
    root = out / "roots" / flavour
    if train_missing:
        import_clips(SyntheticSource(flavour, CLIPS, seed=0, size=SIZE), root, SHARD_FRAMES)
        for proposals, audio in ((PROPOSALS, AUDIO), ("none", None)):
            run_plans(plan_caches(root, PrecomputeConfig(), proposals, audio), workers=0, scheduler=None)
        write_truth_proposals(root)
    variants = plan_variants(list(grouped_overs()), PROPOSALS, AUDIO, one_by_one=True)
    comparison = Comparison(root, "tiny", variants, SEEDS, OVERRIDES, device="cpu", sounds=SOUNDS)
    return (compare if train_missing else tabulate)(comparison, out / "runs" / flavour)


def check(tables: dict[Flavour, Table]) -> None:
    """Raise `ComboError` when runs failed, or when right sound is not clearly better than swapped sound."""
    problems = [f"{flavour}, {run}: {why}" for flavour, table in tables.items() for run, why in table.failed.items()]
    for flavour, table in tables.items():
        right, swapped = table.row(RECIPE).M_J, table.row(RECIPE, "swapped").M_J
        problems += [
            f"{flavour}, seed {seed}: M_J {right[seed]:.1f} with the right sound, {swapped[seed]:.1f} with another's"
            for seed in right
            if right[seed] < swapped[seed] + MARGIN
        ]
    if problems:
        raise ComboError("\n".join(["the study failed:", *problems]))


def page(tables: dict[Flavour, Table]) -> str:
    """docs/learning.md: the same for everybody who runs the same code on the same kind of machine."""
    frames = f"{SIZE} x {SIZE} pixels"
    begun: dict[Flavour, Table] = {flavour: table for flavour, table in tables.items() if table.row(RECIPE).M_J}
    sections = [section for flavour, table in begun.items() for section in _flavour(flavour, table)]
    return "\n\n".join(
        [
            "# What it learns",
            f"""\
Three synthetic sets, one per flavour of AVSBench: {CLIPS} clips of {frames}, 70 % to train on, 20 % to test. In each
clip several objects move and some of them sound; which ones cannot be seen. The preset `tiny` is trained from random
weights for 300 steps of four clips, with {len(SEEDS)} seeds. This page is written by

```sh
OMP_NUM_THREADS=1 python benchmarks/learning.py --out study
```

{_work(tables)}
It can be stopped and resumes when it is run again; `--table` writes the page from what is there. For each flavour it
makes the clips and caches, and then does what this command does:

```sh
{_command()}
```""",
            "## In short",
            "\n".join(f"- **{flavour}**: {_findings(table)}" for flavour, table in begun.items()),
            *sections,
            """\
## How to read this

Numbers are percent, mean ± standard deviation over seeds (number of seeds), on the test split, in the protocol
`published` of [metrics.md](metrics.md). Sounds: *swapped* is that of another clip, *silent* and *noise* are silence and
white noise. Differences are to the full model with the same seed, in points; *open* means that seeds disagree on the
sign. A seed changes initial weights, order of clips and augmentation, but not the clips.

A small network on small pictures, trained for a minute, says what works in principle. It does not say what each part
adds on AVSBench with pretrained backbones and 90,000 steps.""",
        ]
    )


def _flavour(flavour: Flavour, table: Table) -> Iterator[str]:
    """The section of one flavour."""
    yield f"## {flavour}: {FLAVOURS[flavour]}"
    sounds = [(sound, table.row(RECIPE, sound)) for sound in SOUNDS]
    lines = [f"| {sound} | {spread(row.M_J.values())} | {spread(row.M_F.values())} |" for sound, row in sounds]
    yield "\n".join(["| full model, sound at evaluation | M_J | M_F |", "|---|---|---|", *lines])
    full = table.row(RECIPE)
    parts = [(name, what, table.row(name)) for name, what in OVERS.items()]
    lines = [
        f"| full model | | {spread(full.M_J.values())} | {spread(full.M_F.values())} | | |",
        *(
            f"| {what} | `{name}` | {spread(row.M_J.values())} | {spread(row.M_F.values())} "
            f"| {' | '.join(difference(full, row))} |"
            for name, what, row in parts
        ),
    ]
    head = "| trained and scored with the right sound | changed | M_J | M_F | M_J less full model's | with every seed |"
    yield "\n".join([head, "|---|---|---|---|---|---|", *lines])


def _findings(table: Table) -> str:
    """What the numbers of one flavour say, in a sentence."""
    full, swapped = table.row(RECIPE).M_J, table.row(RECIPE, "swapped").M_J
    sentence = f"right sound beats another clip's by {mean(full.values()) - mean(swapped.values()):.0f} points"
    for verdict, lead in (("worse", "Worse than the full model"), ("better", "Better"), ("open", "Open")):
        which = [what for name, what in OVERS.items() if difference(table.row(RECIPE), table.row(name))[1] == verdict]
        sentence += f". {lead}: {'; '.join(which)}" if which else ""
    return f"{sentence}."


def difference(full: Row, other: Row) -> tuple[str, str]:
    """M_J of `other` less that of `full` by seed, and what all seeds agree on: worse, better, or open."""
    gaps = [other.M_J[seed] - full.M_J[seed] for seed in other.M_J if seed in full.M_J]
    if len(gaps) < 2:
        return "-", "-"
    verdict = "worse" if max(gaps) < 0 else "better" if min(gaps) > 0 else "open"
    return f"{mean(gaps):+.1f} ± {stdev(gaps):.1f}", verdict


def grouped_overs() -> Iterator[str]:
    """`OVERS` as texts for `compare`, with all values of a key in one."""
    values: dict[str, list[str]] = {}
    for over in OVERS:
        key, value = over.split("=")
        values.setdefault(key, []).append(value)
    return (f"{key}={','.join(of_key)}" for key, of_key in values.items())


def _command() -> str:
    options = [
        f"--preset tiny --proposals {PROPOSALS} --audio {AUDIO}",
        " ".join(f"--set {override}" for override in OVERRIDES),
        *(f"--over {over}" for over in grouped_overs()),
        f"--one-by-one --seeds {','.join(map(str, SEEDS))} --sounds {','.join(SOUNDS)}",
    ]
    return " \\\n    ".join(["combo compare ROOT --out OUT --device cpu", *options])


def _work(tables: dict[Flavour, Table]) -> str:
    runs = sum(len(table.row(name).M_J) for table in tables.values() for name in (RECIPE, *OVERS))
    planned = len(FLAVOURS) * len(SEEDS) * (len(OVERS) + 1)
    state = f"It trains {planned} networks, each in about a minute of one CPU core."
    return state if runs == planned else f"{state} Here {runs} of them are done."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("study"), help="where sets and runs are kept (default: study)")
    parser.add_argument("--flavour", choices=FLAVOURS, action="append", help="only this one; repeatable; no page")
    parser.add_argument("--table", action="store_true", help="train nothing, write the page from what is there")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write (default: docs/learning.md)")
    options = parser.parse_args()
    try:
        flavours: list[Flavour] = options.flavour or list(FLAVOURS)
        tables: dict[Flavour, Table] = {f: study(f, options.out, not options.table) for f in flavours}
        for table in tables.values():
            print(table, end="\n\n")
        if options.flavour is None:
            write_atomic(options.page, page(tables) + "\n")
        check(tables)
    except ComboError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
