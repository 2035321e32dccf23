"""The `combo` command: parse, call one function of the pipeline, print.

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
from .commands.options import AsJson, Device, MovedRoot, Preset, Run, Set, Split, Subset
from .commands.stage_one import precompute
from .commands.stage_two import compare, evaluate, replay, train
from .console import run
from .errors import FAILED
from .pipeline.common.choices import EveryFrame, MaskFormat, MaskSize, Outputs
from .pipeline.evaluate.protocols import PUBLISHED

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

    The steps: combo import -> combo precompute -> combo train -> combo evaluate, combo predict.
    'combo demo' runs all of them on synthetic clips in minutes.
    """


for command in (precompute, train, compare, evaluate, replay):
    app.command()(command)


@app.command()
def predict(
    run: Run,
    videos: Annotated[list[Path], typer.Argument(help="Video files of any length.")],
    out: Annotated[Path, typer.Option(help="Folder for overlays, masks and timelines.")],
    masks: Annotated[MaskFormat, typer.Option(help="PNG files, COCO run lengths, or a Zarr store.")] = Outputs.masks,
    mask_size: Annotated[
        MaskSize, typer.Option(help="Size of the masks: the video's or the network's.")
    ] = Outputs.mask_size,
    every_frame: Annotated[EveryFrame | None, typer.Option(help="A mask for every picture; segment is slow.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove masks of another call that are in the way.")
    ] = False,
    proposals: Annotated[str | None, typer.Option(help="A generator, for runs on imported Maskiges.")] = None,
    device: Device = "auto",
    settings: Set = None,
) -> None:
    """Segment your own videos: overlay mp4 with the original sound, masks, and a timeline of what sounds when.

    Weights of the audio encoder or generator: --set precompute.encoder.weights=FILE, as for precompute.
    """
    from .pipeline.predict.predict import predict as segment_videos
    from .pipeline.predict.segmenter import StageOne

    stage_one = StageOne(tuple(settings or ()), proposals)
    outputs = Outputs(masks, mask_size, every_frame, replace)
    for line in segment_videos(run, videos, out, stage_one, outputs, device):
        typer.echo(line)


@app.command()
def report(
    targets: Annotated[list[Path], typer.Argument(metavar="TARGET...", help="Runs, comparisons, cache roots, caches.")],
    out: Annotated[Path, typer.Option(help="Folder; an earlier report in it is replaced.")] = Path("report"),
    split: Split = "test",
    protocol: Annotated[str, typer.Option(help="As for evaluate.")] = PUBLISHED,
    root: MovedRoot = None,
    device: Device = "auto",
) -> None:
    """Write a page about runs, comparisons and caches, with their pictures and sounds. It needs no network."""
    from .pipeline.compare.comparable import Scoring
    from .pipeline.report.report import report as write_report

    typer.echo(write_report(targets, out, Scoring(split, "right", protocol), device, root))


@app.command()
def reproduce(
    subset: Annotated[Subset, typer.Argument(help="s4, ms3 or avss.")],
    backbone: Annotated[Literal["r50", "pvt"], typer.Option(help="Backbone of the checkpoint; pvt: PVT-v2-B5.")],
    source: Annotated[Path, typer.Option(help="AVSBench as downloaded, or the folder of the subset.")],
    checkpoint: Annotated[Path, typer.Option(help="The published weights.")],
    root: Annotated[Path, typer.Option(help="Cache root to work in; finished work in it is reused.")],
    maskiges: Annotated[Path | None, typer.Option(help="Released Maskiges, if not in --source.")] = None,
    vggish: Annotated[Path | None, typer.Option(help="VGGish weights; default: those in the checkpoint.")] = None,
    proposals: Annotated[str, typer.Option(help="Another proposals cache of ROOT.")] = "official-maskiges",
    fusion: Annotated[Literal["none", "bilateral"] | None, typer.Option(help="Default: the checkpoint's.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Evaluate published weights as published, and compare with the paper.

    All inputs are checked first. The same command resumes. Exit code 5 when the published numbers are not met.
    """
    from .pipeline.published.inputs import Request
    from .pipeline.published.reproduce import reproduce as reproduce_it

    request = Request(subset, backbone, source, checkpoint, root, maskiges, vggish, proposals, fusion)
    report = reproduce_it(request, device)
    typer.echo(json.dumps(report.summary(), indent=1) if as_json else report)
    if not report.met:
        typer.echo("the published numbers were not met; all files are kept", err=True)
        raise typer.Exit(FAILED)


@app.command()
def model(
    preset: Preset = "s4-r50",
    classes: Annotated[int, typer.Option(min=2, help="With background: 2 for S4 and MS3, 71 for AVSS.")] = 2,
    settings: Set = None,
    as_json: AsJson = False,
) -> None:
    """Show the number of parameters of a configured network, part by part."""
    from .pipeline.config.tree import load_config
    from .pipeline.weights.model_info import describe_model, parameter_counts

    config = load_config(preset, settings or [], "model")
    typer.echo(json.dumps(parameter_counts(config, classes)) if as_json else describe_model(config, classes))


@app.command()
def doctor(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH", help="AVSBench folder, cache root or URL, run, or weights.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine and every PATH, and say what to do. Exit code 1 when there is an error."""
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
    """Run every step on synthetic clips, in a few minutes on a CPU, and write a report."""
    from .pipeline.demo import demo as show

    typer.echo(show(out, clips, steps))


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(app, None))
