"""Look at the stores of a cache root: what there is, how much is finished, and whether it is whole."""

from pathlib import Path
from typing import Any

from ..data.cache_root import list_caches
from ..data.store import Cache, ClipStore, Store
from .progress import bar


def root_info(root: Path) -> dict[str, Any]:
    """JSON values: the clip store and every cache of `root` with their provenance, coverage and size.

    Raises `BadInput` when there is no clip store.
    """
    clips = ClipStore(root)
    fingerprint = None if clips.unfinished() else clips.fingerprint()
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


def verify_root(root: Path) -> list[dict[str, Any]]:
    """Every damaged or missing shard of every store of a root: store, shard, problem. Reads all files."""
    stores: list[Store] = [ClipStore(root), *list_caches(root)]
    problems = []
    with bar(sum(s.num_shards for s in stores), "verify", "shards") as progress:
        for store in stores:
            for shard, problem in store.damaged():
                progress.update()
                if problem is not None:
                    problems.append({"store": str(store.path), "shard": shard, "problem": problem})
    return problems
