"""Look at the stores of a cache root: what there is, how much is finished, and whether it is whole."""

from typing import Any

from ..data.cache_root import cache_paths, list_caches
from ..data.location import Location, location
from ..data.metadata import is_begun
from ..data.store import Cache, ClipStore, Store
from ..errors import BadInput
from .progress import bar


def root_info(root: str | Location) -> dict[str, Any]:
    """JSON values: the clip store and every cache of `root` with their provenance, coverage and size.

    Raises `BadInput` when there is no clip store.
    """
    clips = ClipStore(root)
    try:
        fingerprint = clips.fingerprint()
    except BadInput:  # the import has not finished
        fingerprint = None
    return {
        "clips": {
            **_store_info(clips),
            "dataset": clips.attributes["dataset"],
            "classes": list(clips.classes),
            "size": list(clips.size),
            "splits": clips.table.splits(),
            "notes": clips.notes(),
        },
        "caches": [_cache_info(clips, cache, fingerprint) for cache in list_caches(root)],
    }


def _store_info(store: Store) -> dict[str, Any]:
    done = store.receipts()
    return {
        "path": str(store.path),
        "frames": store.frames,
        "shards": store.num_shards,
        "shards_done": len(done),
        "bytes": sum(file[0] for receipt in done.values() for file in receipt.files.values() if file),
        "quarantined": store.quarantined(),
    }


def _cache_info(clips: ClipStore, cache: Cache, clips_fingerprint: str | None) -> dict[str, Any]:
    done = cache.receipts()
    coverage = {}
    for split in clips.table.splits():
        shards = clips.shards_of(split)
        coverage[split] = sum(s in done for s in shards) / len(shards)
    masks = sum(r.counts.get("masks", 0) for r in done.values())
    frames = sum(r.counts.get("frames", 0) for r in done.values())
    return {
        "kind": cache.kind,
        "name": cache.name,
        **_store_info(cache),
        "maker": cache.maker,
        "fresh": cache.attributes["clips_fingerprint"] == clips_fingerprint,
        "coverage": coverage,
        **({"masks_per_frame": masks / frames} if cache.kind == "proposals" and frames else {}),
    }


def show_info(info: dict[str, Any]) -> str:
    """`root_info` for people."""
    clips = info["clips"]
    splits = ", ".join(f"{count} {split}" for split, count in clips["splits"].items())
    height, width = clips["size"]
    lines = [
        f"{clips['path']}: {clips['dataset']}, {splits} clips, {clips['frames']} frames of {width}x{height}, "
        f"{_progress(clips)}",
        f"  classes: {', '.join(clips['classes'])}",
        *(f"  quarantined {clip}: {why.splitlines()[-1]}" for clip, why in clips["quarantined"].items()),
        *(f"  note on {clip}: {note}" for clip, note in clips["notes"].items()),
    ]
    for cache in info["caches"]:
        covered = ", ".join(f"{split} {share:.0%}" for split, share in cache["coverage"].items())
        per_frame = f", {cache['masks_per_frame']:.1f} masks per frame" if "masks_per_frame" in cache else ""
        stale = "" if cache["fresh"] else "  STALE: made from other clips than these"
        lines.append(f"{cache['kind']} {cache['name']}: {_progress(cache)}; {covered}{per_frame}{stale}")
        parameters = ", ".join(f"{k}={v}" for k, v in cache["maker"]["parameters"].items())
        lines.append(f"  version {cache['maker']['version']}; {parameters or 'no parameters'}")
    return "\n".join(lines)


def _progress(store: dict[str, Any]) -> str:
    return f"{store['shards_done']} of {store['shards']} shards, {store['bytes'] / 1e6:.1f} MB"


def verify_root(root: str | Location) -> list[dict[str, Any]]:
    """Every damaged or missing shard of every store of a root: store, shard, problem. Reads all files.

    shard is None where metadata, a log, or a file of no shard is meant. Raises `BadInput` when there is no clip store.
    """
    problems: list[dict[str, Any]] = []

    def found(path: Location, shard: int | None, problem: str) -> None:
        problems.append({"store": str(path), "shard": shard, "problem": problem})

    stores: list[Store] = []
    clips = location(root) / "clips.zarr"
    for path in (clips, *cache_paths(root)):
        try:
            stores.append(ClipStore(root) if path == clips else Cache(path))
        except BadInput as error:
            if not is_begun(path):
                raise
            found(path, None, str(error))
    with bar(sum(s.num_shards for s in stores), "verify", "shards") as progress:
        for store in stores:
            for shard, problem in store.damaged():
                if problem is not None:
                    found(store.path, shard, problem)
                if shard is not None:
                    progress.update()
    return problems


def show_problems(problems: list[dict[str, Any]]) -> str:
    """`verify_root` for people."""
    if not problems:
        return "all stores are whole"
    places = [p["store"] if p["shard"] is None else f"{p['store']} shard {p['shard']}" for p in problems]
    lines = [f"{place}: {p['problem']}" for place, p in zip(places, problems, strict=True)]
    end = (
        f"{len(problems)} problems; 'combo cache verify --repair' mends what it can, and the commands that made these "
        "stores do only what is damaged or missing"
    )
    return "\n".join([*lines, end])
