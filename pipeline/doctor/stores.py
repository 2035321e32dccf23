"""Cache roots, runs and weight folders: whether they are whole, by checks that read no array."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...data.store.location import Location
from ...data.store.metadata import check_metadata
from ...data.store.root import cache_paths
from ...data.store.store import Cache, ClipStore, Store
from ...errors import BadInput
from ..common.text import quarantine_lines
from ..runs.checkpoints import checkpoints, read_checkpoint
from ..runs.data import open_data
from ..runs.folder import read_best, read_run
from ..weights.fetch import verify_weights
from .dataset import shared_findings
from .findings import Finding


def root_findings(root: Location, facts: dict[str, Any]) -> Iterator[Finding]:
    """Coverage, stale caches, damage that names and sizes of files show. 'combo cache verify' reads everything."""
    try:
        clips = ClipStore(root)
    except BadInput as error:
        yield Finding("D401", str(root), str(error))
        return
    facts |= {"dataset": clips.dataset, "clips": clips.table.splits(), "stores": {}}
    yield from _store_findings(clips, facts)
    if notes := clips.notes():
        yield Finding("D406", str(clips.path), f"{len(notes)}", tuple(f"{c}: {note}" for c, note in notes.items()))
    yield from shared_findings(clips.table, str(clips.path))
    finished = not clips.unfinished()
    for path in cache_paths(root):
        try:
            cache = Cache(path)
        except BadInput as error:
            yield Finding("D401", str(path), str(error))
            continue
        yield from _store_findings(cache, facts)
        if finished and cache.clips_fingerprint != clips.fingerprint():
            yield Finding("D405", str(path))


def _store_findings(store: Store, facts: dict[str, Any]) -> Iterator[Finding]:
    begun, whole = store.done_shards(), store.receipts()
    facts["stores"][store.path.name] = f"{len(whole)} of {store.num_shards} shards"
    damaged = [f"shard {shard}: a file of it is missing or cut" for shard in sorted(begun - whole.keys())]
    damaged += [f"{name}: {what}" for name, what in check_metadata(store.path, store.metadata_files).items()]
    if damaged:
        yield Finding("D402", str(store.path), items=tuple(damaged))
    if missing := store.num_shards - len(begun):
        yield Finding("D403", str(store.path), f"{missing} of {store.num_shards} shards are missing")
    if bad := store.quarantined():
        yield Finding("D404", str(store.path), f"{len(bad)}", tuple(quarantine_lines(bad)))


def run_findings(run: Path, facts: dict[str, Any]) -> Iterator[Finding]:
    """Whether a run can be read, resumed and evaluated. Reads its checkpoints whole."""
    try:
        _, info = read_run(run)
    except BadInput as error:
        yield Finding("D501", str(run), str(error))
        return
    found = checkpoints(run)
    facts |= {"dataset": info.dataset, "checkpoints": [p.name for p in found]}
    for path in found:
        try:
            read_checkpoint(path)
        except ValueError as error:
            yield Finding("D502", str(path), str(error))
    try:
        facts["best"] = read_best(run)
        if not found and facts["best"] is None:
            yield Finding("D504", str(run))
    except BadInput as error:
        yield Finding("D503", str(run), str(error))
    if broken := sorted(p.name for p in (run / "broken").glob("step-*")):
        yield Finding("D506", str(run / "broken"), items=tuple(broken))
    try:
        open_data(info)
    except (BadInput, OSError) as error:
        yield Finding("D505", str(run), str(error))


def weight_findings(folder: Path, facts: dict[str, Any]) -> Iterator[Finding]:
    """Hash the weight files of the folder that commands use."""
    checks = verify_weights([])
    facts["weights"] = {check["name"]: f"{check['state']}, sha256 {check['sha256'][:12]}" for check in checks}
    for check in checks:
        if check["state"] == "damaged":
            yield Finding("D111", check["path"], f"{check['name']}: {check['problem']}")
