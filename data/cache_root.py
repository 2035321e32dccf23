"""A cache root: making, finding and holding its stores.

ROOT/clips.zarr                         frames, labels, sound, clip table
ROOT/proposals/<generator>-<fp>.zarr    masks and Maskiges of one generator
ROOT/audio/<encoder>-<fp>.zarr          features of one audio encoder
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import BadInput
from .clip import CLIP_LENGTHS, ClipSource
from .clip_table import ClipTable, plan_order
from .schema import SCHEMA_VERSION, create_arrays
from .store import Cache, ClipStore, Store, array_specs, digest

CACHE_KINDS = ("proposals", "audio")


def create_clips(root: Path, source: ClipSource, shard_frames: int) -> ClipStore:
    """Open the clip store for the clips of `source`, making it first when there is none: no data yet.

    Raises `BadInput` when `root` holds other clips.
    """
    if re.match(r"[a-z0-9+]{2,}:/", str(root)):
        raise BadInput(f"{root}: a cache root must be a folder of this file system")
    if shard_frames <= 0 or shard_frames % max(CLIP_LENGTHS):
        raise BadInput(f"shard_frames must be a positive multiple of {max(CLIP_LENGTHS)}, not {shard_frames}")
    table = ClipTable.of(plan_order(source.clips))
    if not len(table):
        raise BadInput(f"{source.name}: no clips to import")
    attributes = {
        "schema": SCHEMA_VERSION,
        "kind": "clips",
        "dataset": source.name,
        "classes": list(source.classes),
        "size": list(source.size),
        "clips": len(table),
        "frames": table.total_frames,
        "shard_frames": shard_frames,
        "plan_sha256": table.digest(),
        "short_audio": source.short_audio,
        "parameters": source.parameters,
    }
    path = root / "clips.zarr"
    _create(path, attributes, table)
    store = ClipStore(root)
    if store.attributes != attributes:
        differing = sorted(k for k in attributes if attributes[k] != store.attributes.get(k))
        raise BadInput(f"{path} holds other clips (different: {', '.join(differing)}); name another root or remove it")
    return store


def cache_path(clips: ClipStore, kind: str, maker: dict[str, Any]) -> Path:
    """Where the cache that `maker` makes of `clips` is or will be: its name follows from all that changes its data.

    kind: proposals or audio. Raises `BadInput` when the clips are not all imported.
    """
    fingerprint = digest([SCHEMA_VERSION, kind, maker, clips.fingerprint()])
    return clips.path.parent / kind / f"{maker['name']}-{fingerprint[:12]}.zarr"


def create_cache(
    clips: ClipStore,
    kind: str,
    maker: dict[str, Any],
    dim: int | None = None,
    probes: dict[str, list[list[float]]] | None = None,
) -> Cache:
    """Open the cache at `cache_path`, making it first when there is none: no data yet.

    For audio, dim is the width of the features, and probes holds the features of some seconds of "silence" and
    "noise", [L][dim].
    """
    attributes = {
        "schema": SCHEMA_VERSION,
        "kind": kind,
        "maker": maker,
        "clips_fingerprint": clips.fingerprint(),
        "frames": clips.frames,
        "shard_frames": clips.shard_frames,
        **({"size": list(clips.size)} if kind == "proposals" else {"dim": dim, "probes": probes}),
    }
    path = cache_path(clips, kind, maker)
    _create(path, attributes, None)
    return Cache(path)


def open_cache(clips: ClipStore, kind: str, name: str) -> Cache:
    """The cache called `name`: a full name, or a maker's name when only one cache of it was made from these clips.

    Raises `BadInput` when there is none, more than one, or it was made from other clips.
    """
    root = clips.path.parent
    folder = root / kind
    there = sorted(p.stem for p in folder.glob("*.zarr"))
    matching = [n for n in there if n == name or n.rsplit("-", 1)[0] == name]
    imported = name.startswith("official-maskiges")
    command = f"import maskiges {root}" if imported else f"precompute {root} --{kind} {name}"
    make = f"make it with 'combo {command}'"
    if not matching:
        raise BadInput(f"no {kind} cache {name!r} in {folder}, which holds {there or 'none'}; {make}")
    caches = [Cache(folder / f"{n}.zarr") for n in matching]
    fresh = [c for c in caches if c.attributes["clips_fingerprint"] == clips.fingerprint()]
    if not fresh:
        raise BadInput(f"{kind} cache {', '.join(matching)} was made from other clips than {clips.path} holds; {make}")
    if len(fresh) > 1:
        raise BadInput(f"{kind} {name!r} is not one cache; name one of {[c.name for c in fresh]}")
    return fresh[0]


def list_caches(root: Path) -> list[Cache]:
    """All caches of a root, in a stable order."""
    return [Cache(p) for kind in CACHE_KINDS for p in sorted((root / kind).glob("*.zarr"))]


@contextmanager
def exclusive(store: Store) -> Iterator[None]:
    """Hold a store for writing. Raises `BadInput` when another run on this machine writes to it."""
    with (store.path / "_lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            raise BadInput(f"{store.path}: process {holder} is writing to it; wait for it or stop it") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        for left in store.path.rglob("*.partial"):  # by a writer that was killed
            left.unlink(missing_ok=True)
        yield


def _create(path: Path, attributes: dict[str, Any], table: ClipTable | None) -> None:
    """Make the metadata of a store in one rename, so that a kill leaves all of it or nothing."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    create_arrays(temporary, array_specs(attributes), attributes["frames"], attributes["shard_frames"], attributes)
    if table is not None:
        table.write(temporary / "clips.parquet")
    try:
        temporary.rename(path)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if not path.is_dir():  # not merely another run that was faster
            raise
