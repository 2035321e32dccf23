"""`combo weights`: weight files of others, in and out."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Published checkpoints, in and out.", no_args_is_help=True)


@app.command("convert")
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
    from ..pipeline.weights import convert_weights

    typer.echo(convert_weights(source, out, to, vggish, preset))
