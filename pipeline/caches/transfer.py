"""Export stores to one HDF5 file, import them from it, and merge stores of several machines."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data.store.commit import copy_shard
from ...data.store.location import Location, location
from ...data.store.locks import lock_store
from ...data.store.metadata import is_begun
from ...data.store.root import create_store, list_caches, open_cache
from ...data.store.store import Cache, ClipStore, Store
from ...errors import BadInput
from ...files import replacing
from ..common.progress import bar


@dataclass(frozen=True)
class Transfer:
    """What was copied: shards per store. conflicts: shards that differ, and were not copied."""

    target: str
    shards: dict[str, int]
    conflicts: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.target}: {name}: {count} shards" for name, count in self.shards.items()]
        return "\n".join([*lines, *(f"conflict: {c}" for c in self.conflicts)])


def export_stores(root: str | Location, file: Path, split: str | None, caches: list[str] | None) -> Transfer:
    """Write the clip store and caches of a root to one HDF5 file, which appears only when it is complete.

    split: only the shards that hold clips of it. caches: names as for `open_cache`; None: all caches of these clips.
    Raises `BadInput` when the file exists, and for unfinished shards.
    """
    import h5py

    from ...data.store.hdf5 import write_header, write_store

    if file.exists():
        raise BadInput(f"{file} exists; name another file or remove it")
    clips = ClipStore(root)
    fingerprint = clips.fingerprint()
    stores: list[Store] = [clips, *_chosen(clips, caches)]
    shards = clips.shards_of(split)
    for store in stores:
        if missing := sorted(set(shards) - store.receipts().keys()):
            of = f" of split {split!r}" if split else ""
            raise BadInput(f"{store.path}: {len(missing)} of {len(shards)} shards{of} are missing; finish it first")
    with (
        replacing(file) as temporary,
        h5py.File(temporary, "w") as target,
        bar(len(stores) * len(shards), f"export {file.name}", "shards") as progress,
    ):
        write_header(target)
        for store in stores:
            write_store(target.create_group(_name(store)), store, shards, fingerprint, progress.update)
    return Transfer(str(file), {_name(store): len(shards) for store in stores})


def import_stores(file: Path, root: str | Location) -> Transfer:
    """Restore all stores of an exported file in a root, with the receipts they had. Resumes after an interruption.

    Raises `BadInput` when the file is none of ours or damaged, or the root holds other clips; `ComboError` when a shard
    does not come back as it was.
    """
    from ...data.store.hdf5 import clips_fingerprint, count_shards, read_store, reading, stores_in

    root = location(root)
    with reading(file) as source:
        groups = stores_in(source)
        counts = {name: count_shards(group) for name, group in groups.items()}
        with bar(sum(counts.values()), f"import {file.name}", "shards") as progress:
            for name, group in groups.items():
                target = root / f"{name}.zarr"
                with lock_store(target):
                    store = read_store(group, target, progress.update)
                if store.kind == "clips":
                    ClipStore(root).adopt_fingerprint(clips_fingerprint(group))
        return Transfer(str(root), counts)


def merge_roots(root: str | Location, sources: Sequence[str | Location]) -> Transfer:
    """Copy the shards that `root` lacks, of the clip store and every cache, from roots in which the same job ran.

    A shard that both have finished with different contents is a conflict: it is reported, and `root` keeps its own.
    Raises `BadInput`, before anything is copied, when a root holds other clips.
    """
    offered: list[list[Store]] = [[ClipStore(source), *list_caches(source)] for source in sources]
    root = location(root)
    counts: dict[str, int] = {}
    conflicts: list[str] = []
    there = root / "clips.zarr"
    for clips, *_ in offered:
        if is_begun(there) and Store(there).attributes != clips.attributes:
            raise BadInput(f"{clips.path} and {there} hold different clips; only equal sets can be merged")
    for stores in offered:
        for source in stores:
            name = f"{_name(source)}.zarr"
            target = root / name
            create_store(target, source.attributes, source.table if isinstance(source, ClipStore) else None)
            store = Store(target)
            with lock_store(target), bar(source.num_shards, f"merge {name}", "shards") as progress:
                for shard, receipt in source.receipts().items():
                    own = store.finished(shard)
                    if own is None:
                        copy_shard(source, store, receipt)
                        counts[name] = counts.get(name, 0) + 1
                    elif own.to_json() != receipt.to_json():
                        conflicts.append(f"{source.path}: shard {shard} differs from that of {target}")
                    progress.update()
    return Transfer(str(root), counts, tuple(conflicts))


def _chosen(clips: ClipStore, names: list[str] | None) -> list[Cache]:
    if names is None:
        fingerprint = clips.fingerprint()
        return [c for c in list_caches(clips.path.parent) if c.clips_fingerprint == fingerprint]
    found = []
    for name in names:
        kinds = [c.kind for c in list_caches(clips.path.parent) if name in (c.name, c.provenance.name)]
        found.append(open_cache(clips, kinds[0] if kinds else "proposals", name))
    return found


def _name(store: Store) -> str:
    """Its path below the root, without .zarr."""
    return "clips" if store.kind == "clips" else f"{store.kind}/{store.path.stem}"
