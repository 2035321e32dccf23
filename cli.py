"""The `combo` command: parses, calls one function of the pipeline, prints.

Exit codes: 0 done; 1 bad input or usage, nothing started; 3 finished with quarantined clips; 4 interrupted,
resumable; 5 failed, resumable.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import typer

from .commands import cache, imports, weights
from .commands.options import PRESETS, AsJson, Device, Root, Run, Set, Subset, complete_preset, finish
from .commands.stage_two import compare, evaluate, replay, train
from .console import run
from .errors import FAILED

app = typer.Typer(pretty_exceptions_enable=False, add_completion=True)
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
    proposals: Annotated[
        str | None,
        typer.Option(
            help="Proposal generator: sam-vit-b, sam-vit-l, sam-vit-h, mobile-sam, semantic-sam-t, semantic-sam-l, "
            "sam2.1-hiera-{tiny,small,base-plus,large}, felzenszwalb, none, or a plug-in's."
        ),
    ] = None,
    audio: Annotated[str | None, typer.Option(help="Audio encoder: vggish, logmel, ast, or a plug-in's.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Local Dask workers; default: one per GPU, else per core. 0: this process, no Dask."),
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Use a running Dask scheduler, e.g. tcp://node:8786.")] = None,
    slurm: Annotated[
        bool, typer.Option("--slurm", help="Submit workers to SLURM, as --set precompute.slurm.KEY=VALUE says.")
    ] = False,
    split: Annotated[str | None, typer.Option(help="Only the shards that hold clips of this split.")] = None,
    clips: Annotated[
        str | None, typer.Option(help="Only the shards of these clips: a file with one id a line, or ids with commas.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the shards of the first so many clips.")] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="The I-th of N disjoint shares, which may run at the same time.")
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="Run the generator with random weights; its cache says so in its name.")
    ] = False,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Try clips again on which the model failed.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, how large it gets and how long it takes, and stop.")
    ] = False,
    settings: Set = None,
) -> None:
    """Stage one: run frozen models over every frame once, into caches. Does only what is missing.

    Parameters: --set precompute.generator.KEY=VALUE and --set precompute.encoder.KEY=VALUE. Weights come from the
    folder that 'combo weights fetch' fills, or --set precompute.encoder.weights=FILE.
    """
    from .pipeline.config.tree import load_config
    from .pipeline.precompute.driver import plan_caches, run_plans
    from .pipeline.precompute.selection import parse_clip_ids, parse_share

    if sum([workers is not None, scheduler is not None, slurm]) > 1:
        raise typer.BadParameter("--workers, --scheduler and --slurm exclude each other")
    config = load_config(None, settings or []).precompute
    plans = plan_caches(
        root,
        config,
        proposals,
        audio,
        split,
        clip_ids=None if clips is None else parse_clip_ids(clips),
        limit=limit,
        share=None if shard is None else parse_share(shard),
        untrained=untrained,
        retry_quarantined=retry_quarantined,
    )
    for plan in plans:
        typer.echo(plan)
    if dry_run:
        from .pipeline.precompute.estimate import estimate

        for plan in plans:
            typer.echo(estimate(plan))
        return
    quarantined = run_plans(plans, workers, scheduler, config.slurm if slurm else None)
    typer.echo("all of them are done")
    finish(quarantined)


for _command in (train, compare, evaluate, replay):
    app.command()(_command)


@app.command()
def predict(
    run: Run,
    videos: Annotated[list[Path], typer.Argument(help="Video files of any length.")],
    out: Annotated[Path, typer.Option(help="Folder for overlays, masks and timelines.")],
    masks: Annotated[
        Literal["png", "coco", "zarr"], typer.Option(help="PNG files, COCO run lengths, or a Zarr store.")
    ] = "png",
    mask_size: Annotated[
        Literal["video", "network"], typer.Option(help="Pixels of the masks: the video's own, or the network's.")
    ] = "video",
    every_frame: Annotated[
        Literal["interpolate", "segment"] | None,
        typer.Option(help="A mask for every picture: moved between seconds (quick), or found in each (slow)."),
    ] = None,
    proposals: Annotated[
        str | None, typer.Option(help="Another proposal generator than the run's, for runs on imported Maskiges.")
    ] = None,
    device: Device = "auto",
    settings: Set = None,
) -> None:
    """Segment your own videos: overlay mp4 with the original sound, masks, and a timeline of what sounds when.

    If the audio encoder or generator has weights: --set precompute.encoder.weights=FILE as for precompute.
    """
    from .pipeline.predict.predict import Outputs
    from .pipeline.predict.predict import predict as segment_videos
    from .pipeline.predict.segment import StageOne

    stage_one = StageOne(tuple(settings or ()), proposals)
    for line in segment_videos(run, videos, out, stage_one, Outputs(masks, mask_size, every_frame), device):
        typer.echo(line)


@app.command()
def report(
    targets: Annotated[
        list[Path], typer.Argument(metavar="TARGET...", help="Run folders, comparisons, cache roots and single caches.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the page; an earlier report in it is replaced.")] = Path(
        "report"
    ),
    split: Annotated[str, typer.Option(help="Score runs on train, val or test.")] = "test",
    protocol: Annotated[str, typer.Option(help="As for evaluate.")] = "published",
    device: Device = "auto",
) -> None:
    """One page, without network, of runs, comparisons and caches, with their pictures and sounds beside it."""
    from .pipeline.report.build import report as build_it

    typer.echo(build_it(targets, out, split, protocol, device))


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
    from .pipeline.published.reproduce import reproduce as reproduce_it

    report = reproduce_it(subset, backbone, source, checkpoint, maskiges, vggish, root, device, proposals, fusion)
    typer.echo(json.dumps(report.summary(), indent=1) if as_json else report)
    if not report.met:
        typer.echo("the published numbers were not met; everything is kept", err=True)
        raise typer.Exit(FAILED)


@app.command()
def model(
    preset: Annotated[str, typer.Option(help=PRESETS, autocompletion=complete_preset)] = "s4-r50",
    classes: Annotated[int, typer.Option(min=2, help="Background counted: 2 for S4 and MS3, 71 for AVSS.")] = 2,
    settings: Set = None,
    as_json: AsJson = False,
) -> None:
    """Show how large a configured network is, part by part."""
    from .pipeline.config.tree import load_config
    from .pipeline.weights.model_info import describe_model, parameter_counts

    config = load_config(preset, settings or [])
    typer.echo(json.dumps(parameter_counts(config, classes)) if as_json else describe_model(config, classes))


@app.command()
def doctor(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATH",
            help="AVSBench folder, cache root (or URL), run, or weights folder; none: this machine only.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check machine, data, stores and runs, and say what to do. Exit code 1 when there is an error."""
    from .pipeline.doctor.examine import examine

    report = examine(paths or [])
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else report)
    raise typer.Exit(report.exit_code)


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
