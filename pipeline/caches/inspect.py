"""Inspect the stores of a cache root: what is there, how much is finished, and what is damaged."""

from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from statistics import mean
from typing import Any

from ...data.store.attributes import Provenance
from ...data.store.location import REQUESTS_AT_ONCE, Location, location
from ...data.store.metadata import is_begun
from ...data.store.receipts import Receipt, log_path, read_log
from ...data.store.root import AGREEMENT, cache_paths
from ...data.store.store import Cache, ClipStore, Store
from ...data.store.verify import check_store
from ...errors import BadInput
from ..common.progress import bar
from ..common.text import megabytes, quarantine_lines

MAX_LOGS = 100  # read per cache, spread over its shards: enough for means, and to see every kind of worker


def root_info(root: str | Location) -> dict[str, Any]:
    """The clip store and all caches of a root with their provenance, coverage and size, as JSON values.

    "damaged" maps caches that cannot be opened to the reason. Raises `BadInput` when there is no clip store.
    """
    clips = ClipStore(root)
    try:
        fingerprint = clips.fingerprint()
    except BadInput:  # the import has not finished
        fingerprint = None
    caches, damaged = [], {}
    for path in cache_paths(root):
        try:
            caches.append(_cache_info(clips, Cache(path), fingerprint))
        except BadInput as error:
            damaged[str(path)] = str(error)
    return {
        "clips": {
            **_store_info(clips),
            "dataset": clips.dataset,
            "classes": list(clips.classes),
            "size": list(clips.size),
            "splits": clips.table.splits(),
            "notes": clips.notes(),
            "fingerprint": fingerprint,
        },
        "caches": caches,
        "damaged": damaged,
    }


def _store_info(store: Store) -> dict[str, Any]:
    done = store.receipts()
    return {
        "path": str(store.path),
        "frames": store.frames,
        "shards": store.num_shards,
        "shards_done": len(done),
        "bytes": stored_bytes(done.values()),
        "quarantined": store.quarantined(),
    }


def stored_bytes(receipts: Iterable[Receipt]) -> int:
    """The size of the files of finished shards."""
    return sum(file[0] for receipt in receipts for file in receipt.files.values() if file)


def _cache_info(clips: ClipStore, cache: Cache, clips_fingerprint: str | None) -> dict[str, Any]:
    done = cache.receipts()
    shards = {split: clips.shards_of(split) for split in clips.table.splits()}
    counted = ("masks", "dropped_masks", "frames")
    masks, dropped, frames = (sum(r.counts.get(key, 0) for r in done.values()) for key in counted)
    agreement = read_log(cache.path / AGREEMENT).get("agreement")  # of an approximate setting with the exact one
    return {
        "kind": cache.kind,
        "name": cache.name,
        **_store_info(cache),
        "maker": cache.provenance.to_json(),
        "clips_fingerprint": cache.clips_fingerprint,
        "fresh": cache.clips_fingerprint == clips_fingerprint,
        "coverage": {split: sum(s in done for s in of_split) / len(of_split) for split, of_split in shards.items()},
        **({"masks_per_frame": masks / frames} if cache.kind == "proposals" and frames else {}),
        **({"dropped_masks": dropped} if dropped else {}),
        **({"agreement": agreement} if agreement else {}),
        **made_with(cache, list(done)),
    }


def made_with(cache: Cache, shards: list[int]) -> dict[str, Any]:
    """Mean seconds per frame, devices and versions, from the logs of its shards; empty without logs."""
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
        some = shards[:: -(-len(shards) // MAX_LOGS) or 1]
        read = pool.map(lambda shard: read_log(log_path(cache.path, shard)), some)
        logs = [log for log in read if log.keys() >= {"seconds_per_frame", "waiting_share", "device", "versions"}]
    if not logs:
        return {}
    versions = sorted({(package, v) for log in logs for package, v in log["versions"].items()})
    return {
        "seconds_per_frame": mean(log["seconds_per_frame"] for log in logs),
        "waiting_share": mean(log["waiting_share"] for log in logs),
        "devices": dict(Counter(log["device"] for log in logs).most_common()),
        "versions": {p: ", ".join(v for _, v in group) for p, group in groupby(versions, key=lambda pair: pair[0])},
        "logs": len(logs),
    }


def show_info(info: dict[str, Any]) -> str:
    """`root_info` as text."""
    clips = info["clips"]
    splits = ", ".join(f"{count} {split}" for split, count in clips["splits"].items())
    height, width = clips["size"]
    lines = [
        f"{clips['path']}: {clips['dataset']}, {splits} clips, {clips['frames']} frames of {width}x{height}, "
        f"{_progress(clips)}",
        f"  classes: {', '.join(clips['classes'])}",
        *(f"  quarantined {line}" for line in quarantine_lines(clips["quarantined"])),
        *(f"  note on {clip}: {note}" for clip, note in clips["notes"].items()),
    ]
    for cache in info["caches"]:
        covered = ", ".join(f"{split} {share:.0%}" for split, share in cache["coverage"].items())
        per_frame = f", {cache['masks_per_frame']:.1f} masks per frame" if "masks_per_frame" in cache else ""
        stale = "" if cache["fresh"] else "  STALE: made from other clips than these"
        lines.append(f"{cache['kind']} {cache['name']}: {_progress(cache)}; {covered}{per_frame}{stale}")
        provenance = Provenance.from_json(cache["maker"])
        parameters = ", ".join(f"{k}={v}" for k, v in provenance.parameters.items())
        weights = f"; weights sha256 {provenance.weights_sha256[:12]}" if provenance.weights_sha256 else ""
        lines.append(f"  version {provenance.version}; {parameters or 'no parameters'}{weights}")
        if "devices" in cache:
            versions = ", ".join(f"{p} {v}" for p, v in cache["versions"].items() if p in ("combo-avs", "torch"))
            lines.append(f"  {cache['seconds_per_frame']:.3g} s per frame on {', '.join(cache['devices'])}; {versions}")
        if "agreement" in cache:
            measured = ", ".join(f"{k} {v:.3g}" for k, v in cache["agreement"].items())
            lines.append(f"  not exact; against the exact setting: {measured}")
        if "dropped_masks" in cache:
            lines.append(f"  {cache['dropped_masks']} masks beyond max_masks were left out")
        lines += [f"  quarantined {line}" for line in quarantine_lines(cache["quarantined"])]
    lines += [f"DAMAGED {why}" for why in info["damaged"].values()]
    return "\n".join(lines)


def _progress(store: dict[str, Any]) -> str:
    return f"{store['shards_done']} of {store['shards']} shards, {megabytes(store['bytes'])}"


def verify_root(root: str | Location) -> list[dict[str, Any]]:
    """Find all damaged or missing shards of a root by reading every file: a list of store, shard and problem.

    shard is None for metadata, logs, and files of no shard. Raises `BadInput` when there is no clip store.
    """
    found: list[tuple[Location, int | None, str]] = []
    stores: list[Store] = []
    clips = location(root) / "clips.zarr"
    for path in (clips, *cache_paths(root)):
        try:
            stores.append(ClipStore(root) if path == clips else Cache(path))
        except BadInput as error:
            if not is_begun(path):
                raise
            found.append((path, None, str(error)))
    with bar(sum(s.num_shards for s in stores), "verify", "shards") as progress:
        for store in stores:
            for shard, problem in check_store(store):
                if problem is not None:
                    found.append((store.path, shard, problem))
                if shard is not None:
                    progress.update()
    return [{"store": str(path), "shard": shard, "problem": problem} for path, shard, problem in found]


def show_problems(problems: list[dict[str, Any]]) -> str:
    """`verify_root` as text."""
    if not problems:
        return "all stores are complete and undamaged"
    lines = []
    for (store, problem), group in groupby(problems, key=lambda p: (p["store"], p["problem"])):
        shards = [p["shard"] for p in group if p["shard"] is not None]
        lines.append(f"{store}{_name_shards(shards)}: {problem}")
    advice = "'combo cache verify --repair' repairs what it can; the commands that made these stores redo the rest"
    return "\n".join([*lines, f"{len(problems)} problems; {advice}"])


def _name_shards(shards: list[int]) -> str:
    """For example " shards 0, 3 to 17"."""
    runs = [[shard for _, shard in run] for _, run in groupby(enumerate(shards), key=lambda pair: pair[1] - pair[0])]
    named = ", ".join(" to ".join(map(str, sorted({run[0], run[-1]}))) for run in runs)
    return f" shard{'s' * (len(shards) > 1)} {named}" if shards else ""
