"""`combo import`: import clips, and caches made by others, into a cache root."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .options import Root, ShardFrames, Size, Subset, finish

app = typer.Typer(help="Import clips into a cache root.", no_args_is_help=True)


@app.command("synthetic")
def import_synthetic(
    root: Root,
    flavour: Annotated[Subset, typer.Option(help="Which AVSBench subset to imitate.")],
    clips: Annotated[int, typer.Option(min=1, help="Number of clips.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same clips.")] = 0,
    size: Size = 224,
    shard_frames: ShardFrames = 160,
    avsbench: Annotated[Path | None, typer.Option(help="Also write the clips here, in AVSBench layout.")] = None,
) -> None:
    """Generate a labelled set of moving, sounding objects, and import it."""
    from ..pipeline.imports.clips import SOURCES, import_clips

    source = SOURCES["synthetic"](flavour=flavour, clips=clips, seed=seed, size=size)
    _imported(import_clips(source, root, shard_frames, avsbench))


@app.command("avsbench")
def import_avsbench(
    root: Root,
    source: Annotated[Path, typer.Option(help="The data set as downloaded, or one of its folders.")],
    subset: Annotated[Subset, typer.Option(help="s4: single source, ms3: multi-sources, avss: semantic.")],
    size: Size = 224,
    shard_frames: ShardFrames = 160,
    split: Annotated[
        Literal["official", "source-aware"],
        typer.Option(help="source-aware: without train and val clips of test videos, and train clips of val videos."),
    ] = "official",
    log_mel_pickles: Annotated[
        bool, typer.Option("--log-mel-pickles", help="Use the log-mels in the data set's pickles, read in a sandbox.")
    ] = False,
) -> None:
    """Import AVSBench-object (S4, MS3) or AVSBench-semantic (AVSS). All files are checked before the first is read."""
    from ..pipeline.imports.clips import SOURCES, import_clips

    options = {"subset": subset, "size": size, "split": split, "log_mel_pickles": log_mel_pickles}
    _imported(import_clips(SOURCES["avsbench"](source_dir=source, **options), root, shard_frames))


@app.command("maskiges")
def import_maskiges(
    root: Root,
    source: Annotated[Path, typer.Option(help="The data set with its pre_SAM_mask folders, or one of its folders.")],
) -> None:
    """Import the published Maskiges (pre_SAM_mask) as the proposals cache official-maskiges."""
    from ..pipeline.imports.maskiges import import_maskiges as import_it

    _imported(import_it(root, source))


@app.command("ground-truth")
def import_ground_truth(root: Root) -> None:
    """Add the true masks of all objects of a synthetic set, silent ones included, as the proposals cache ground-truth.

    The upper bound for proposal generators. Only for sets made by 'combo import synthetic'.
    """
    from ..pipeline.imports.truth import write_truth_proposals

    typer.echo(f"{write_truth_proposals(root).path} is done")


@app.command("videos")
def import_videos(
    root: Root,
    files: Annotated[list[Path], typer.Argument(help="Video files: mp4, mkv, avi, webm, of any length.")],
    clip_seconds: Annotated[int, typer.Option(help="Seconds per clip: 5 or 10.")] = 5,
    size: Size = 224,
    shard_frames: ShardFrames = 160,
) -> None:
    """Import your own videos, without labels."""
    from ..pipeline.imports.clips import SOURCES, import_clips

    source = SOURCES["videos"](paths=files, clip_seconds=clip_seconds, size=size)
    _imported(import_clips(source, root, shard_frames))


def _imported(report: Any) -> None:
    typer.echo(report)
    finish(report.quarantined)
