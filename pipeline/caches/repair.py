"""Repair a root: what follows from the stores themselves, and shards of caches that can be recomputed here."""

from dataclasses import asdict

from ...data.store.location import Location, absolute
from ...data.store.locks import lock_store
from ...data.store.root import list_caches
from ...data.store.store import Cache, ClipStore, Store
from ...data.store.verify import repair
from ...errors import BadInput
from ..config.precompute import PrecomputeConfig
from ..precompute.driver import plan_caches, run_plans
from ..precompute.selection import Selection


def repair_root(root: str | Location) -> list[str]:
    """Repair metadata, remove stray files, and recompute damaged shards of caches. Shards never started are left alone.

    Returns lines that say what was done and what is left to do: damaged clips need their import, which knows their
    source, and a model cannot run whose weights are not here.
    Raises `BadInput` when a run is writing to a store of the root.
    """
    clips = ClipStore(root)
    lines = []
    if damaged := _invalidate_damaged(clips):
        lines.append(f"{clips.path}: shards {damaged} must be imported again: run the same 'combo import' command")
    for cache in list_caches(root):
        if not (damaged := _invalidate_damaged(cache)):
            continue
        try:
            _recompute(cache, clips, damaged)
            lines.append(f"{cache.path}: shards {damaged} were recomputed")
        except BadInput as error:
            lines.append(f"{cache.path}: shards {damaged} must be redone by the command that made them ({error})")
    return lines


def _invalidate_damaged(store: Store) -> list[int]:
    """Repair what follows from the store itself. Returns the shards that were finished, and must be redone."""
    before = store.done_shards()
    with lock_store(store.path):
        return sorted(set(repair(store)) & before)


def _recompute(cache: Cache, clips: ClipStore, shards: list[int]) -> None:
    """Raises `BadInput` when the generator or encoder of the cache cannot be built here as it was."""
    provenance = cache.provenance
    name = provenance.name.removeprefix("untrained-")
    model = "generator" if cache.kind == "proposals" else "encoder"
    folding = asdict(provenance.maskige) if provenance.maskige else {}
    config = PrecomputeConfig.model_validate({model: provenance.parameters, **folding})
    ids = tuple(clip.id for shard in shards for _, clip in clips.clips_in(shard)[:1])
    proposals, audio = (name, None) if cache.kind == "proposals" else (None, name)
    plans = plan_caches(str(cache.path.parent.parent), config, proposals, audio, Selection(clip_ids=ids))
    if str(plans[0].path) != absolute(cache.path):
        differing = provenance.differing(plans[0].attributes.provenance)
        raise BadInput(f"what would run here differs in its {', '.join(differing)}")
    run_plans(plans, workers=0)
