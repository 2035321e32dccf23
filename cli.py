"""The `combo` command: parses, calls one function of the pipeline, prints.

Exit codes: 0 done; 1 bad input or usage, nothing started; 3 finished with quarantined clips; 4 interrupted,
resumable; 5 failed, resumable.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .commands import cache, imports, weights
from .commands.options import PRESETS, AsJson, Device, Root, Run, Set, Subset, finish
from .console import run
from .errors import FAILED

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
app.add_typer(imports.app, name="import")
app.add_typer(cache.app, name="cache")
app.add_typer(weights.app, name="weights")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"combo-avs {version('combo-avs')}")
        raise typer.Exit


@app.callback(no_args_is_help=True)
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Audio-visual segmentation with COMBO: find, per pixel and frame, the objects that make the sound.

    The route: combo import -> combo precompute -> combo train -> combo evaluate, combo predict.
    'combo demo' goes all of it on synthetic clips in minutes.
    """


@app.command()
def precompute(
    root: Root,
    proposals: Annotated[str | None, typer.Option(help="Proposal generator: felzenszwalb or none.")] = None,
    audio: Annotated[str | None, typer.Option(help="Audio encoder: vggish or logmel.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Local Dask workers; default: one per GPU, else per core. 0: this process, no Dask."),
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Use a running Dask scheduler, e.g. tcp://node:8786.")] = None,
    split: Annotated[str | None, typer.Option(help="Only the shards that hold clips of this split.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and stop.")] = False,
    settings: Set = None,
) -> None:
    """Stage one: run frozen models over every frame once, into caches. Does only what is missing.

    Parameters: --set precompute.generator.KEY=VALUE and --set precompute.encoder.KEY=VALUE, for example
    --audio vggish --set precompute.encoder.weights=vggish-10086976.pth
    """
    from .pipeline.config import load_config
    from .pipeline.precompute.driver import plan_caches, run_plans

    config = load_config(None, settings or []).precompute
    plans = plan_caches(root, config, proposals, audio, split)
    for plan in plans:
        typer.echo(plan)
    if dry_run:
        return
    quarantined = run_plans(plans, workers, scheduler)
    typer.echo("all of them are done")
    finish(quarantined)


@app.command()
def train(
    root: Root,
    preset: Annotated[str, typer.Option(help=PRESETS)],
    proposals: Annotated[str, typer.Option(help="Proposals cache, e.g. felzenszwalb.")],
    audio: Annotated[str, typer.Option(help="Audio cache, e.g. vggish.")],
    out: Annotated[Path, typer.Option(help="Run folder.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Short for --set train.steps=.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Short for --set train.seed=.")] = None,
    resume: Annotated[Literal["never", "auto"], typer.Option(help="auto: go on from the newest checkpoint.")] = "never",
    settings: Set = None,
) -> None:
    """Stage two: train COMBO on the cached tensors. No foundation or audio model runs here."""
    from .pipeline.config import load_config
    from .pipeline.train import train as train_it

    overrides = list(settings or [])
    overrides += [f"train.steps={steps}"] if steps is not None else []
    overrides += [f"train.seed={seed}"] if seed is not None else []
    scores = train_it(root, load_config(preset, overrides), proposals, audio, out, resume == "auto")
    typer.echo(f"done: {out}" + (f"; val M_J {scores.M_J:.4f} M_F {scores.M_F:.4f}" if scores else ""))


@app.command()
def evaluate(
    run: Run,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    sound: Annotated[
        Literal["right", "swapped", "silent", "noise"],
        typer.Option(help="Score with the right sound, or with a wrong one as a control."),
    ] = "right",
    protocol: Annotated[
        list[str] | None,
        typer.Option(
            help="Which M_J and M_F, default published; repeat it for several, one pass computes all. Also "
            "avsbench-bsN, dataset-f, strict-empty, hard; for AVSS avsbench-padded, dataset-confusion, ... "
            "See docs/metrics.md."
        ),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Score a run: M_J (mIoU) and M_F (F-score), by default as COMBO prints them."""
    from .pipeline.evaluate import evaluate_run_by

    scores = evaluate_run_by(run, protocol or ["published"], split, sound, device)
    summaries = [{"split": split, "sound": sound, **s.summary()} for s in scores.values()]
    if as_json:
        others = {"protocols": dict(zip(scores, summaries, strict=True))} if len(scores) > 1 else {}
        typer.echo(json.dumps({**summaries[0], **others}, indent=1))
    else:
        typer.echo("\n\n".join(_show_scores(s) for s in summaries))


@app.command()
def predict(
    run: Run,
    videos: Annotated[list[Path], typer.Argument(help="Video files of any length.")],
    out: Annotated[Path, typer.Option(help="Folder for overlays and masks.")],
    proposals: Annotated[
        str | None, typer.Option(help="Another proposal generator than the run's, for runs on imported Maskiges.")
    ] = None,
    device: Device = "auto",
    settings: Set = None,
) -> None:
    """Segment your own videos: an overlay mp4 with the sound, and one mask PNG per second.

    If the audio encoder or generator has weights: --set precompute.encoder.weights=FILE as for precompute.
    """
    from .pipeline.predict import predict as segment_videos

    for line in segment_videos(run, videos, out, settings or [], device, proposals):
        typer.echo(line)


@app.command()
def reproduce(
    subset: Annotated[Subset, typer.Argument(help="s4, ms3 or avss.")],
    backbone: Annotated[Literal["r50", "pvt"], typer.Option(help="Of the checkpoint: r50 or pvt (PVT-v2-B5).")],
    source: Annotated[Path, typer.Option(help="AVSBench as downloaded, or the subset's own folder.")],
    checkpoint: Annotated[Path, typer.Option(help="The published weights.")],
    root: Annotated[Path, typer.Option(help="Cache root to work in; what is finished there is used again.")],
    maskiges: Annotated[
        Path | None, typer.Option(help="The released Maskiges (pre_SAM_mask), if they do not lie in --source.")
    ] = None,
    vggish: Annotated[Path | None, typer.Option(help="VGGish weights; default: those in the checkpoint.")] = None,
    proposals: Annotated[
        str, typer.Option(help="A proposals cache of ROOT instead of the released Maskiges.")
    ] = "official-maskiges",
    fusion: Annotated[
        Literal["none", "bilateral"] | None,
        typer.Option(help="Evaluate with this fusion; default: what the checkpoint has weights for."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Evaluate published weights as published, and compare with the paper.

    Everything is checked first; run it again to go on. Exit code 5 when the published numbers are not met.
    """
    from .pipeline.reproduce import reproduce as reproduce_it

    report = reproduce_it(subset, backbone, source, checkpoint, maskiges, vggish, root, device, proposals, fusion)
    typer.echo(json.dumps(report.summary(), indent=1) if as_json else report)
    if not report.met:
        typer.echo("the published numbers were not met; everything is kept", err=True)
        raise typer.Exit(FAILED)


@app.command()
def model(
    preset: Annotated[str, typer.Option(help=PRESETS)] = "s4-r50",
    classes: Annotated[int, typer.Option(min=2, help="Background counted: 2 for S4 and MS3, 71 for AVSS.")] = 2,
    settings: Set = None,
    as_json: AsJson = False,
) -> None:
    """Show how large a configured network is, part by part."""
    from .pipeline.config import load_config
    from .pipeline.model_info import describe_model, parameter_counts

    config = load_config(preset, settings or [])
    typer.echo(json.dumps(parameter_counts(config, classes)) if as_json else describe_model(config, classes))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    clips: Annotated[int, typer.Option(min=10, help="Synthetic clips.")] = 240,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 500,
) -> None:
    """The whole route on synthetic clips, in a few minutes on a CPU, with a report to look at."""
    from .pipeline.demo import demo as show

    typer.echo(show(out, clips, steps))


def main() -> None:
    """Run the command line and exit with the code of its outcome."""
    sys.exit(run(app, None))


def _show_scores(summary: dict[str, Any]) -> str:
    head = f"{summary['split']}, {summary['sound']} sound ({summary['protocol']})"
    counts = ", ".join(
        f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}"
        for k, v in summary.items()
        if k not in ("split", "sound", "protocol", "M_J", "M_F", "classes")
    )
    return f"{head}\nM_J {summary['M_J']:.4f}\nM_F {summary['M_F']:.4f}\n{counts}"
