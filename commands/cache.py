"""`combo cache`: inspect, verify, compare, transfer and clean the stores of a cache root."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import FAILED
from .options import AsJson, OnlySplit, Root, finish

app = typer.Typer(help="Inspect, verify, compare, transfer and clean the stores of a cache root.", no_args_is_help=True)


@app.command("info")
def cache_info(root: Root, as_json: AsJson = False) -> None:
    """Show what a cache root holds, and how much of it is finished."""
    from ..pipeline.caches.inspect import root_info, show_info

    info = root_info(root)
    typer.echo(json.dumps(info, indent=1) if as_json else show_info(info))


@app.command("verify")
def cache_verify(
    root: Root,
    repair: Annotated[bool, typer.Option("--repair", help="First repair, and recompute damaged shards.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check every file against its checksum. Exit code 5 when anything is damaged or missing."""
    from ..pipeline.caches.inspect import show_problems, verify_root
    from ..pipeline.caches.repair import repair_root

    if repair:
        for line in repair_root(root):
            typer.echo(line, err=as_json)
    problems = verify_root(root)
    typer.echo(json.dumps({"ok": not problems, "problems": problems}, indent=1) if as_json else show_problems(problems))
    if problems:
        raise typer.Exit(FAILED)


@app.command("diff")
def cache_diff(
    root: Root,
    first: Annotated[str, typer.Argument(help="Proposals cache, e.g. sam-vit-h.")],
    second: Annotated[str, typer.Argument(help="The proposals cache to compare it with.")],
    split: OnlySplit = None,
    as_json: AsJson = False,
) -> None:
    """Compare what two proposal generators found in the same clips."""
    from ..pipeline.caches.diff import diff_caches

    found = diff_caches(root, first, second, split)
    typer.echo(json.dumps(found.to_json(), indent=1) if as_json else found)


@app.command("export")
def cache_export(
    root: Root,
    file: Annotated[Path, typer.Argument(help="HDF5 file to write.")],
    split: OnlySplit = None,
    cache: Annotated[list[str] | None, typer.Option(help="Only this cache; repeatable. Default: all.")] = None,
) -> None:
    """Write the clips and caches of a root into one HDF5 file."""
    from ..pipeline.caches.transfer import export_stores

    typer.echo(export_stores(root, file, split, cache))


@app.command("import")
def cache_import(file: Annotated[Path, typer.Argument(help="Written by 'combo cache export'.")], root: Root) -> None:
    """Restore the stores of an exported HDF5 file in a root, byte for byte. The same command resumes."""
    from ..pipeline.caches.transfer import import_stores

    typer.echo(import_stores(file, root))


@app.command("import-masks")
def cache_import_masks(
    root: Root,
    folder: Annotated[Path, typer.Argument(help="Of <clip id>/<frame>.npz, .npy, .json (COCO run lengths) or .png.")],
    name: Annotated[str, typer.Option(help="Name of the proposals cache.")],
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Frames without a file have no masks.")
    ] = False,
) -> None:
    """Import masks made by another program as a proposals cache; docs/mask-format.md describes the format."""
    from ..pipeline.imports.masks import import_masks

    report = import_masks(root, folder, name, allow_missing=allow_missing)
    typer.echo(report)
    finish(report.quarantined)


@app.command("merge")
def cache_merge(root: Root, sources: Annotated[list[str], typer.Argument(help="With shards of the same job.")]) -> None:
    """Copy the shards that a root lacks from other roots. Exit code 5 when finished shards differ."""
    from ..pipeline.caches.transfer import merge_roots

    report = merge_roots(root, sources)
    typer.echo(report)
    if report.conflicts:
        raise typer.Exit(FAILED)


@app.command("gc")
def cache_gc(
    root: Root,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it; without this, only list it.")] = False,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Include caches that lack shards.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find stale caches and leftovers of killed runs. Stores that a run is writing to are kept."""
    from ..pipeline.caches.gc import clean

    report = clean(root, unfinished=unfinished, delete=delete)
    typer.echo(json.dumps(report.to_json(), indent=1) if as_json else report)
