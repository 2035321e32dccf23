"""`combo cache`: look at the stores of a cache root, check, compare, ship and clean them."""

import json

import typer

from ..errors import FAILED
from .options import AsJson, Root

app = typer.Typer(help="Look at the stores of a cache root.", no_args_is_help=True)


@app.command("info")
def cache_info(root: Root, as_json: AsJson = False) -> None:
    """What a cache root holds, and how much of it is finished."""
    from ..pipeline.inspect import root_info, show_info

    info = root_info(root)
    typer.echo(json.dumps(info, indent=1) if as_json else show_info(info))


@app.command("verify")
def cache_verify(root: Root, as_json: AsJson = False) -> None:
    """Read every file and compare it with its checksum. Exit code 5 when anything is damaged or missing."""
    from ..pipeline.inspect import verify_root

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
