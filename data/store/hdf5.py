"""Stores in one HDF5 file, for handing over: the same arrays, attributes and receipts, and nothing is lost.

    /                      attributes `format`, `version`
    /clips                 the clip store; /proposals/NAME and /audio/NAME: caches
        attributes         `attributes`: those of the store as JSON; `fingerprint`: of the clips
        <array>            [F, ...] as in the store, in chunks of 5 frames; frames of absent shards are fill value
        <array>, <array>_ends
                           variable-length arrays: all bytes in a row, and uint64 [F]: where those of each frame end
        receipts, logs     [n] checksummed JSON of the n shards that the file holds
        clips.parquet      uint8, the clip table (of the clip store only)

A shard that comes back from the file must get the very receipt it went in with, checksums of all files included.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ...errors import BadInput, ComboError
from .attributes import ClipAttributes, StoreAttributes, parse_attributes
from .checksummed_json import load_checksummed
from .clip_table import ClipTable
from .commit import commit_shard
from .location import Location
from .metadata import CLIP_TABLE
from .receipts import invalidate_shard, log_path, read_log, receipt_path, write_log
from .root import CACHE_KINDS, cache_name, create_store
from .schema import BYTES, CHUNK_FRAMES, ArraySpec
from .store import Store

FORMAT, VERSION = "combo-avs stores", 1
BYTES_CHUNK = 1 << 20

Advance = Callable[[], Any]


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """Open a file of ours. Raises `BadInput` for any other, and for what turns out to be damaged while it is read."""
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise BadInput(f"{path}: an HDF5 file, but none that 'combo cache export' wrote")
            if file.attrs.get("version") != VERSION:
                raise BadInput(f"{path}: format version {file.attrs.get('version')}, this package reads {VERSION}")
            yield file
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file system, not of the contents
        raise BadInput(f"{path}: not a whole file of 'combo cache export' ({error})") from error


def write_header(file: h5py.File) -> None:
    file.attrs["format"], file.attrs["version"] = FORMAT, VERSION


def write_store(group: h5py.Group, store: Store, shards: list[int], fingerprint: str, advance: Advance) -> None:
    """Copy finished shards of a store into a new group. `advance` is called after each."""
    group.attrs["attributes"] = json.dumps(store.attributes.to_json(), sort_keys=True)
    group.attrs["fingerprint"] = fingerprint
    if store.kind == "clips":
        group[CLIP_TABLE] = np.frombuffer((store.path / CLIP_TABLE).read_bytes(), np.uint8)
    for name, spec in store.specs.items():
        _create_dataset(group, name, spec, store.frames)
    for shard in shards:
        lo, hi = store.shard_range(shard)
        for name, spec in store.specs.items():
            if spec.dtype == BYTES:
                _append_bytes(group, name, lo, hi, store.read_bytes(name, lo, hi))
            else:
                _dataset(group, name)[lo:hi] = store.read(name, lo, hi)
        advance()
    text = h5py.string_dtype()
    group.create_dataset("receipts", data=[receipt_path(store.path, s).read_bytes() for s in shards], dtype=text)
    group.create_dataset("logs", data=[json.dumps(read_log(log_path(store.path, s))) for s in shards], dtype=text)


def read_store(group: h5py.Group, path: Location, advance: Advance) -> Store:
    """Write the store of a group to `path`, with the shards that the group holds; finished ones are kept.

    Lock the store while it runs. Raises `BadInput` when another store is there, `ComboError` when a shard does not get
    the receipt that it was exported with; it counts as missing then.
    """
    table = None
    if CLIP_TABLE in group:
        table = ClipTable.read(f"{group.file.filename}: {CLIP_TABLE}", _rows(group, CLIP_TABLE, 0, None).tobytes())
    create_store(path, _read_attributes(group), table)
    store = Store(path)
    done = store.receipts()
    for content, log in zip(*(_rows(group, name, 0, None) for name in ("receipts", "logs")), strict=True):
        receipt = load_checksummed(content)
        if receipt["shard"] not in done:
            _read_shard(group, store, content, receipt, json.loads(log))
        advance()
    return store


def stores_in(file: h5py.File) -> dict[str, h5py.Group]:
    """The groups that hold stores by their names, that of the clip store first.

    Raises `BadInput` for a group under another name than that of its store, which follows from its attributes.
    """
    names = ["clips"]
    for kind in CACHE_KINDS:
        caches = file.get(kind)
        names += [f"{kind}/{name}" for name in caches] if isinstance(caches, h5py.Group) else []
    return {name: _group(file, name) for name in names}


def count_shards(group: h5py.Group) -> int:
    return len(_dataset(group, "receipts"))


def clips_fingerprint(group: h5py.Group) -> str:
    """The fingerprint of the whole clip store, of which the file may hold a part."""
    return str(group.attrs["fingerprint"])


def _group(file: h5py.File, name: str) -> h5py.Group:
    group = file[name]
    if isinstance(group, h5py.Group) and re.fullmatch(r"clips|(proposals|audio)/[A-Za-z0-9._-]+", name):
        with suppress(KeyError, TypeError, ValueError):
            attributes = _read_attributes(group)
            own = "clips" if isinstance(attributes, ClipAttributes) else f"{attributes.kind}/{cache_name(attributes)}"
            if own == name:
                return group
    raise BadInput(f"{file.filename}: group {name!r} does not hold the store that its name says")


def _read_attributes(group: h5py.Group) -> StoreAttributes:
    """Raises `KeyError`, `TypeError` or `ValueError` for attributes of no store."""
    return parse_attributes(json.loads(str(group.attrs["attributes"])))


def _dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    found = group[name]
    if not isinstance(found, h5py.Dataset):
        raise TypeError(f"{group.name}/{name} is no data set")
    return found


def _rows(group: h5py.Group, name: str, first: int, end: int | None) -> np.ndarray:
    return np.asarray(_dataset(group, name)[first:end])


def _create_dataset(group: h5py.Group, name: str, spec: ArraySpec, frames: int) -> None:
    options: dict[str, Any] = {"fletcher32": True}
    if spec.compress:
        options |= {"compression": "gzip", "compression_opts": 4}
    if spec.dtype == BYTES:
        group.create_dataset(name, (0,), np.uint8, maxshape=(None,), chunks=(BYTES_CHUNK,), **options)
        group.create_dataset(f"{name}_ends", data=np.zeros(frames, np.uint64))
    else:
        chunks = (min(CHUNK_FRAMES, frames), *spec.frame_shape)
        group.create_dataset(name, spec.rows(frames), spec.dtype, chunks=chunks, fillvalue=spec.fill, **options)


def _append_bytes(group: h5py.Group, name: str, lo: int, hi: int, values: list[bytes]) -> None:
    data, ends = _dataset(group, name), _dataset(group, f"{name}_ends")
    start = len(data)
    ends_here = start + np.cumsum([len(v) for v in values], dtype=np.uint64)
    data.resize((int(ends_here[-1]),))
    data[start:] = np.frombuffer(b"".join(values), np.uint8)
    ends[lo:hi] = ends_here


def _read_shard(group: h5py.Group, store: Store, content: bytes, receipt: dict[str, Any], log: dict[str, Any]) -> None:
    shard = int(receipt["shard"])
    lo, hi = store.shard_range(shard)
    arrays = {name: _read_array(group, name, spec, lo, hi) for name, spec in store.specs.items()}
    extra = {key: receipt[key] for key in ("counts", "quarantined", "notes")}
    if log.pop("seal", None):
        write_log(log_path(store.path, shard), log)
    written = commit_shard(store, shard, arrays, **extra)
    if written.to_json() != content:
        invalidate_shard(store.path, shard)
        raise ComboError(
            f"{group.file.filename}: {group.name}, shard {shard} does not come back as it was exported: the file is "
            "damaged, or this machine's zarr compresses in another way than that of the machine it comes from"
        )


def _read_array(group: h5py.Group, name: str, spec: ArraySpec, lo: int, hi: int) -> np.ndarray:
    if spec.dtype != BYTES:
        return _rows(group, name, lo, hi)
    ends = _rows(group, f"{name}_ends", lo, hi).astype(np.int64)
    # Shards are appended one after the other, so this one starts where the nearest earlier one ends.
    start = int(_rows(group, f"{name}_ends", 0, lo).max(initial=0))
    raw = _rows(group, name, start, int(ends[-1])).tobytes()
    cuts = np.concatenate([[start], ends]) - start
    out = np.empty(hi - lo, object)
    out[:] = [raw[a:b] for a, b in pairwise(cuts)]
    return out
