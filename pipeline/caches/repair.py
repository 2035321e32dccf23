"""Mend a root: what follows from the stores themselves, and the shards of caches that can be made here again."""

from dataclasses import asdict
from pathlib import Path

from ...data.store.location import Location, absolute
from ...data.store.root import exclusive, list_caches
from ...data.store.store import Cache, ClipStore, Store
from ...data.store.verify import repair
from ...errors import BadInput
from ..config.precompute import PrecomputeConfig
from ..precompute.driver import plan_caches, run_plans


def repair_root(root: str | Location) -> list[str]:
    """Mend metadata, drop damaged receipts and stray files, and run the generators and encoders of damaged shards.

    Gives lines that say what was done and what is left to do: clips need their source, which only the import knows,
    and a model whose weights are not here cannot run. Shards that were never started are none of its business.
    Raises `BadInput` when a run writes to a store of the root.
    """
    clips = ClipStore(root)
    lines = []
    if damaged := _mend(clips):
        lines.append(f"{clips.path}: shards {damaged} are to be imported again: run the same 'combo import' command")
    for cache in list_caches(root):
        if not (damaged := _mend(cache)):
            continue
        try:
            _make_again(cache, root, damaged)
            lines.append(f"{cache.path}: shards {damaged} were made again")
        except BadInput as error:
            lines.append(f"{cache.path}: shards {damaged} are to be made again by the command that made them ({error})")
    return lines


def _mend(store: Store) -> list[int]:
    before = store.done_shards()
    with exclusive(store):
        return sorted(set(repair(store)) & before)


def _make_again(cache: Cache, root: str | Location, shards: list[int]) -> None:
    provenance = cache.provenance
    name = provenance.name.removeprefix("untrained-")
    settings = {
        "generator" if cache.kind == "proposals" else "encoder": provenance.parameters,
        **(asdict(provenance.maskige) if provenance.maskige else {}),
    }
    config = PrecomputeConfig.model_validate(settings)
    clips = ClipStore(root)
    ids = tuple(clip.id for shard in shards for _, clip in clips.clips_in(shard)[:1])
    wanted = {"proposals": name, "audio": None} if cache.kind == "proposals" else {"proposals": None, "audio": name}
    plans = plan_caches(root if isinstance(root, Path) else str(root), config, **wanted, clip_ids=ids)
    if str(plans[0].path) != absolute(cache.path):
        differing = provenance.differing(plans[0].attributes.provenance)
        raise BadInput(f"what would run here differs in {', '.join(differing)}")
    run_plans(plans, workers=0)
