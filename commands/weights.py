"""`combo weights`: fetch and verify third-party weight files, and convert published checkpoints."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import FAILED
from .options import AsJson

app = typer.Typer(help="List, fetch, verify and convert third-party weight files.", no_args_is_help=True)


@app.command("list")
def weights_list(as_json: AsJson = False) -> None:
    """List the third-party weight files that combo can use, and which are here."""
    from ..pipeline.weights.fetch import list_weights, show_list

    rows = list_weights()
    typer.echo(json.dumps(rows, indent=1) if as_json else show_list(rows))


@app.command("fetch")
def weights_fetch(names: Annotated[list[str], typer.Argument(help="As 'list' shows, or all.", metavar="NAME")]) -> None:
    """Download weight files. Resumes partial downloads, and keeps only files of the right size and hash."""
    from ..pipeline.weights.fetch import fetch_weights

    for line in fetch_weights(names):
        typer.echo(line)


@app.command("verify")
def weights_verify(
    names: Annotated[list[str] | None, typer.Argument(help="Default: all files that are here.", metavar="NAME")] = None,
    as_json: AsJson = False,
) -> None:
    """Check weight files against their published hashes. Exit code 5 when one is damaged or missing."""
    from ..pipeline.weights.fetch import show_checks, verify_weights

    checks = verify_weights(names or [])
    typer.echo(json.dumps(checks, indent=1) if as_json else show_checks(checks))
    if any(check["state"] in ("damaged", "missing") for check in checks):
        raise typer.Exit(FAILED)


@app.command("convert")
def weights_convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint of the published code, or weights of this package.")],
    out: Annotated[Path, typer.Argument(help="File to write: .safetensors, or .pth for the published code.")],
    to: Annotated[Literal["ours", "published"], typer.Option(help="Whose key names the weights get.")] = "ours",
    vggish: Annotated[Path | None, typer.Option(help="With --to published: VGGish weights to include.")] = None,
    preset: Annotated[str | None, typer.Option(help="Refuse weights that do not fit this preset.")] = None,
) -> None:
    """Convert a checkpoint of the published code into safetensors of this package, or back. Every key must match."""
    from ..pipeline.weights.convert import convert_weights

    typer.echo(convert_weights(source, out, to, vggish, preset))
