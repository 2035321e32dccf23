"""Stage two: train, compare and evaluate on cached tensors, and replay a broken step."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import FAILED
from ..pipeline.common.choices import Sound
from ..pipeline.evaluate.protocols import PUBLISHED
from .options import AsJson, Device, MovedRoot, OptionalPreset, OptionalRoot, Presets, Roots, Run, Set, Split, say

_OVER = (
    "Vary proposals, audio or a setting, e.g. fusion=none,bilateral; VALUE+KEY=VALUE sets more along with a value. "
    "Repeatable."
)
_OTHER_DATA = "---- other data: not comparable with the numbers above ----"
_PROTOCOL = (
    "Definition of M_J and M_F, default published. Repeatable, all in one pass. Also avsbench-bsN, dataset-f, "
    "strict-empty, hard; for AVSS avsbench-padded, dataset-confusion, ... See docs/metrics.md."
)


def train(
    root: OptionalRoot = None,
    preset: OptionalPreset = None,
    proposals: Annotated[str | None, typer.Option(help="Proposals cache, e.g. felzenszwalb.")] = None,
    audio: Annotated[str | None, typer.Option(help="Audio cache, e.g. vggish.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Short for --set train.steps=.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Short for --set train.seed=.")] = None,
    resume: Annotated[Literal["never", "auto"], typer.Option(help="auto: from the newest checkpoint.")] = "never",
    allow_other: Annotated[
        list[str] | None,
        typer.Option(help="Resume although other: clips, proposals, audio, left-out. Repeatable."),
    ] = None,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the whole config and stop.")] = False,
    settings: Set = None,
) -> None:
    """Stage two: train COMBO on the cached tensors. No foundation or audio model runs here.

    ROOT, --preset, --proposals, --audio and --out are required, except with --show-config.
    On several GPUs: torchrun --nproc-per-node N -m combo_avs train ...
    """
    from ..pipeline.config.tree import explain_config, load_config

    overrides = list(settings or [])
    overrides += [f"train.steps={steps}"] if steps is not None else []
    overrides += [f"train.seed={seed}"] if seed is not None else []
    if show_config:
        typer.echo(explain_config(load_config(preset, overrides, "train")), nl=False)
        return
    if root is None or preset is None or proposals is None or audio is None or out is None:
        given = {"ROOT": root, "--preset": preset, "--proposals": proposals, "--audio": audio, "--out": out}
        missing = [name for name, value in given.items() if value is None]
        raise typer.BadParameter(f"missing: {', '.join(missing)}")
    from ..pipeline.runs.data import DataNames
    from ..pipeline.train.loop import train as train_it

    names, config = DataNames(root, proposals, audio), load_config(preset, overrides, "train")
    say(train_it(names, config, out, resume=resume == "auto", allow=allow_other or ()))


def replay(
    folder: Annotated[Path, typer.Argument(help="RUN/broken/step-N, which training writes when a loss is not finite.")],
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Repeat a training step whose loss was not finite, and show its losses."""
    from ..pipeline.train.replay import replay as repeat

    losses = repeat(folder, device)
    typer.echo(json.dumps(losses, indent=1) if as_json else "\n".join(f"{k} {v:.6g}" for k, v in losses.items()))


def compare(
    roots: Roots,
    preset: Presets,
    out: Annotated[Path, typer.Option(help="Folder for the runs, one per variant and seed, and the table.")],
    proposals: Annotated[str | None, typer.Option(help="Proposals cache, unless --over varies it.")] = None,
    audio: Annotated[str | None, typer.Option(help="Audio cache, unless --over varies it.")] = None,
    over: Annotated[list[str] | None, typer.Option(metavar="KEY=A,B,...", help=_OVER)] = None,
    one_by_one: Annotated[bool, typer.Option("--one-by-one", help="One value at a time, no combinations.")] = False,
    seeds: Annotated[str, typer.Option(help="Numbers, separated by commas.")] = "0,1,2",
    split: Split = "test",
    sounds: Annotated[str, typer.Option(help="right, swapped, silent, noise; several with commas.")] = "right",
    protocol: Annotated[str, typer.Option(help="As for evaluate.")] = PUBLISHED,
    table: Annotated[bool, typer.Option("--table", help="Train nothing; show the results that exist.")] = False,
    device: Device = "auto",
    settings: Set = None,
    as_json: AsJson = False,
) -> None:
    """Train and score a recipe over caches or settings and several seeds. The same command resumes.

    With several ROOTs, and one --preset for all or one for each, every root has a table and a folder of its own.
    """
    from ..pipeline.compare.grid import Comparison, compare_all, folders_of, tabulate
    from ..pipeline.compare.variants import parse_seeds, parse_sounds, plan_variants

    variants = plan_variants(over or [], proposals, audio, one_by_one=one_by_one)
    how = (settings or [], device, split, parse_sounds(sounds), protocol)
    folders = folders_of(roots, preset, out)
    comparisons = {
        folder: Comparison(root, of_root, variants, parse_seeds(seeds), *how)
        for folder, (root, of_root) in folders.items()
    }
    found = {f: tabulate(c, f) for f, c in comparisons.items()} if table else compare_all(comparisons)
    tables = {folder.name: of_root.to_json() for folder, of_root in found.items()}
    if as_json:
        typer.echo(json.dumps({"roots": tables} if len(roots) > 1 else tables.popitem()[1], indent=1))
    else:
        typer.echo(f"\n\n{_OTHER_DATA}\n\n".join(map(str, found.values())))
    if any(of_root.failed for of_root in found.values()):
        raise typer.Exit(FAILED)


def evaluate(
    run: Run,
    split: Split = "test",
    sound: Annotated[Sound, typer.Option(help="The right sound, or a wrong one as a control.")] = "right",
    protocol: Annotated[list[str] | None, typer.Option(help=_PROTOCOL)] = None,
    weights: Annotated[
        str, typer.Option(metavar="best|last|FILE", help="best on val, of the newest checkpoint, or a file.")
    ] = "best",
    root: MovedRoot = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score a run: M_J (mIoU) and M_F (F-score) in percent, by default as COMBO prints them.

    Each result is kept in RUN/results.
    """
    from ..pipeline.evaluate.run import evaluate_run
    from ..pipeline.evaluate.show import show_results
    from ..pipeline.runs.open import Choice

    results = evaluate_run(run, split, sound, device, protocol or [PUBLISHED], Choice(weights, root))
    summaries = {name: result.summary() for name, result in results.items()}
    if as_json:
        others = {"protocols": summaries} if len(summaries) > 1 else {}
        say(json.dumps({**next(iter(summaries.values())), **others}, indent=1))
    else:
        say(show_results(list(results.values())))
