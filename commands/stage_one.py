"""Stage one: run frozen models over every frame once, into caches."""

from typing import Annotated

import typer

from .options import OnlySplit, Root, Set, finish

_PROPOSALS = (
    "Proposal generator: sam-vit-b, sam-vit-l, sam-vit-h, mobile-sam, semantic-sam-t, semantic-sam-l, "
    "sam2.1-hiera-{tiny,small,base-plus,large}, felzenszwalb, none, or a plug-in's."
)


def precompute(
    root: Root,
    proposals: Annotated[str | None, typer.Option(help=_PROPOSALS)] = None,
    audio: Annotated[str | None, typer.Option(help="Audio encoder: vggish, logmel, ast, or a plug-in's.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Local Dask workers; default: one per GPU, else per core. 0: no Dask.")
    ] = None,
    scheduler: Annotated[str | None, typer.Option(help="Use a running Dask scheduler, e.g. tcp://node:8786.")] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Workers on SLURM; --set precompute.slurm.KEY=VALUE.")] = False,
    split: OnlySplit = None,
    clips: Annotated[str | None, typer.Option(help="Only shards of these clips: ids with commas, or a file.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the shards of the first N clips.")] = None,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="The I-th of N shares, for concurrent runs.")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Random weights; the cache's name says so.")] = False,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="Retry clips that failed before.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would run and how long it takes.")] = False,
    settings: Set = None,
) -> None:
    """Stage one: run frozen models over every frame once, into caches. Does only what is missing.

    Parameters: --set precompute.generator.KEY=VALUE and --set precompute.encoder.KEY=VALUE. Weights come from the
    folder that 'combo weights fetch' fills, or --set precompute.encoder.weights=FILE.
    """
    from ..pipeline.config.tree import load_config
    from ..pipeline.precompute.driver import plan_caches, run_plans
    from ..pipeline.precompute.selection import Selection, parse_clip_ids, parse_share

    if sum([workers is not None, scheduler is not None, slurm]) > 1:
        raise typer.BadParameter("--workers, --scheduler and --slurm exclude each other")
    unread = {
        **({} if slurm else {"precompute.slurm": "it is read with --slurm"}),
        **({} if proposals else {"precompute.generator": "it is read with --proposals"}),
        **({} if audio else {"precompute.encoder": "it is read with --audio"}),
    }
    config = load_config(None, settings or [], "precompute", unread).precompute
    ids = None if clips is None else parse_clip_ids(clips)
    share = None if shard is None else parse_share(shard)
    selection = Selection(split, clip_ids=ids, limit=limit, share=share, retry_quarantined=retry_quarantined)
    plans = plan_caches(root, config, proposals, audio, selection, untrained=untrained)
    for plan in plans:
        typer.echo(plan)
    if dry_run:
        from ..pipeline.precompute.estimate import estimate

        for plan in plans:
            typer.echo(estimate(plan))
        return
    quarantined = run_plans(plans, workers, scheduler, config.slurm if slurm else None)
    typer.echo("all of them are done")
    finish(quarantined)
