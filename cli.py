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

from .console import run
from .errors import FAILED, QUARANTINED
from .options import PRESETS, AsJson, Device, Root, Run, Set, ShardFrames, Size, Subset

app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
imports = typer.Typer(help="Bring clips into a cache root.", no_args_is_help=True)
cache = typer.Typer(help="Look at the stores of a cache root.", no_args_is_help=True)
weights = typer.Typer(help="Published checkpoints, in and out.", no_args_is_help=True)
app.add_typer(imports, name="import")
app.add_typer(cache, name="cache")
app.add_typer(weights, name="weights")


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


@imports.command("synthetic")
def import_synthetic(
    root: Root,
    flavour: Annotated[Subset, typer.Option(help="Which AVSBench subset to imitate.")],
    clips: Annotated[int, typer.Option(min=1, help="Number of clips.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clips.")] = 0,
    size: Size = 224,
    shard_frames: ShardFrames = 160,
    avsbench: Annotated[
        Path | None, typer.Option(help="Write the clips to this folder in AVSBench layout, too.")
    ] = None,
) -> None:
    """Make a labelled set of moving, sounding objects, and import it."""
    from .pipeline.import_clips import import_synthetic as import_it

    _imported(import_it(root, flavour, clips, seed, size, shard_frames, avsbench))


@imports.command("avsbench")
def import_avsbench(
    root: Root,
    source: Annotated[Path, typer.Option(help="The data set as downloaded, or one of its folders.")],
    subset: Annotated[Subset, typer.Option(help="s4: single source, ms3: multi-sources, avss: semantic.")],
    size: Size = 224,
    shard_frames: ShardFrames = 160,
    log_mel_pickles: Annotated[
        bool, typer.Option("--log-mel-pickles", help="Take log-mels from the data set's pickles, read in a sandbox.")
    ] = False,
) -> None:
    """Import AVSBench-object (S4, MS3) or AVSBench-semantic (AVSS). All files are checked before the first is read."""
    from .pipeline.import_clips import import_avsbench as import_it

    _imported(import_it(root, source, subset, size, shard_frames, log_mel_pickles))


@imports.command("maskiges")
def import_maskiges(
    root: Root,
    source: Annotated[Path, typer.Option(help="The data set with its pre_SAM_mask folders, or one of its folders.")],
) -> None:
    """Import the published Maskiges (pre_SAM_mask) as the proposals cache official-maskiges."""
    from .pipeline.import_maskiges import import_maskiges as import_it

    _imported(import_it(root, source))


@imports.command("videos")
def import_videos(
    root: Root,
    files: Annotated[list[Path], typer.Argument(help="Video files: mp4, mkv, avi, webm, of any length.")],
    clip_seconds: Annotated[int, typer.Option(help="Cut into clips of this many seconds: 5 or 10.")] = 5,
    size: Size = 224,
    shard_frames: ShardFrames = 160,
) -> None:
    """Import your own videos, without labels."""
    from .pipeline.import_clips import import_videos as import_it

    _imported(import_it(root, files, clip_seconds, size, shard_frames))


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
    _finish(quarantined)


@cache.command("info")
def cache_info(root: Root, as_json: AsJson = False) -> None:
    """What a cache root holds, and how much of it is finished."""
    from .pipeline.inspect import root_info, show_info

    info = root_info(root)
    typer.echo(json.dumps(info, indent=1) if as_json else show_info(info))


@cache.command("verify")
def cache_verify(root: Root, as_json: AsJson = False) -> None:
    """Read every file and compare it with its checksum. Exit code 5 when anything is damaged or missing."""
    from .pipeline.inspect import verify_root

    problems = verify_root(root)
    if as_json:
        typer.echo(json.dumps({"ok": not problems, "problems": problems}, indent=1))
    else:
        for p in problems:
            typer.echo(f"{p['store']} shard {p['shard']}: {p['problem']}")
        again = "; run the commands that made these stores again, they redo only what is damaged or missing"
        typer.echo(f"{len(problems)} shards damaged or missing{again}" if problems else "all shards are whole")
    if problems:
        raise typer.Exit(FAILED)


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


@weights.command("convert")
def weights_convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint of the published code, or weights of this package.")],
    out: Annotated[Path, typer.Argument(help="File to write: .safetensors, or .pth for the published code.")],
    to: Annotated[Literal["ours", "published"], typer.Option(help="Whose names the weights get.")] = "ours",
    vggish: Annotated[Path | None, typer.Option(help="With --to published: VGGish weights to put in.")] = None,
    preset: Annotated[
        str | None, typer.Option(help="Refuse weights of another backbone or number of classes than this preset's.")
    ] = None,
) -> None:
    """Convert a checkpoint of the published code into this package's safetensors, or back. Every key must fit."""
    from .pipeline.weights import convert_weights

    typer.echo(convert_weights(source, out, to, vggish, preset))


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


def _imported(report: Any) -> None:
    typer.echo(report)
    _finish(report.quarantined)


def _finish(quarantined: dict[str, str]) -> None:
    if quarantined:
        typer.echo(f"{len(quarantined)} clips are quarantined, all others are done", err=True)
        raise typer.Exit(QUARANTINED)


def _show_scores(summary: dict[str, Any]) -> str:
    head = f"{summary['split']}, {summary['sound']} sound ({summary['protocol']})"
    counts = ", ".join(
        f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}"
        for k, v in summary.items()
        if k not in ("split", "sound", "protocol", "M_J", "M_F", "classes")
    )
    return f"{head}\nM_J {summary['M_J']:.4f}\nM_F {summary['M_F']:.4f}\n{counts}"
