"""Arguments and options that several commands share."""

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import QUARANTINED
from ..pipeline.common.text import quarantine_lines

MAX_SHOWN = 10  # quarantined clips at the end of a command

Subset = Literal["s4", "ms3", "avss"]


def _root(text: str) -> Path | str:
    return text if "://" in text else Path(text)


_ROOT = typer.Argument(
    parser=_root,
    metavar="ROOT",
    help="Cache root: the folder, or a URL such as s3://bucket/name, that holds clips.zarr and the caches.",
)
Root = Annotated[Path, _ROOT]  # or the URL as text
Roots = Annotated[list[Path], _ROOT]
OptionalRoot = Annotated[Path | None, _ROOT]
MovedRoot = Annotated[
    Path | None,
    typer.Option("--root", parser=_root, metavar="ROOT", help="The cache root, if not where run.json says."),
]
Split = Annotated[str, typer.Option(help="train, val or test.")]
OnlySplit = Annotated[str | None, typer.Option(help="Only clips of this split, in whole shards.")]
Run = Annotated[Path, typer.Argument(help="Run folder, made by 'combo train --out'.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. train.lr=0.0003. Repeatable."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
Size = Annotated[int, typer.Option(help="Height and width of the stored frames, in pixels.")]
ShardFrames = Annotated[int, typer.Option(help="Frames per shard, the unit of work and of resuming; a multiple of 10.")]


def complete_preset(word: str) -> list[str]:
    """Shipped presets that start with a word, from file names: completion must not wait for heavy imports."""
    names = (path.stem for path in (Path(__file__).parents[1] / "pipeline" / "config" / "presets").glob("*.yaml"))
    return sorted(name for name in names if name.startswith(word))


_PRESET = typer.Option(help="tiny, or s4, ms3, avss with -r50 or -pvt.", autocompletion=complete_preset)
Preset = Annotated[str, _PRESET]
Presets = Annotated[list[str], _PRESET]
OptionalPreset = Annotated[str | None, _PRESET]


def finish(quarantined: dict[str, str]) -> None:
    """End a command with exit code 3 if clips were quarantined."""
    if quarantined:
        shown = [f"quarantined {line}" for line in quarantine_lines(quarantined)[:MAX_SHOWN]]
        rest = "; 'combo cache info' names all of them" if len(quarantined) > MAX_SHOWN else ""
        count = "1 clip is" if len(quarantined) == 1 else f"{len(quarantined)} clips are"
        typer.echo("\n".join([*shown, f"{count} quarantined, all others are done{rest}"]), err=True)
        raise typer.Exit(QUARANTINED)


def say(text: object) -> None:
    """Print, under torchrun in the first process only."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo(text)
