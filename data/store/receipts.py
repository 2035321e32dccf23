"""How a shard gets done: arrays, read back, checksummed and synced; then a receipt, as a whole.

One task owns one shard of every array of a store. Only a valid receipt means that the shard is done; a kill at any
instant leaves either no receipt (the shard is done again) or everything. Nothing that depends on time, host or device
goes into a receipt, so that equal work gives equal bytes; those go to a log beside it.
"""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...files import sync
from .checksummed_json import seal, unseal
from .location import Location, location, write_file
from .metadata import Checksums, checksum, identity, read_metadata
from .schema import BYTES, ArraySpec, encode_shard, shard_key


@dataclass(frozen=True)
class Receipt:
    """What is known of a finished shard.

    files maps paths relative to the store to (bytes, sha256), or to None for a shard of nothing but fill value, which
    Zarr does not write: there absence is known to be data. quarantined maps clip ids to the reason why they have no
    data, notes maps clip ids to something odd about data that are there. store is the store's `identity`.
    """

    shard: int
    frames: tuple[int, int]
    files: Checksums
    counts: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    store: str = ""

    def to_json(self) -> bytes:
        return seal({**vars(self), "seal": ""})


def receipt_path(store: Location, shard: int) -> Location:
    return store / "_done" / f"{shard:06d}.json"


def log_path(store: Location, shard: int) -> Location:
    return store / "_log" / f"{shard:06d}.json"


def write_log(path: Location, log: dict[str, Any]) -> None:
    write_file(path, seal({**log, "seal": ""}))


def read_log(path: Location) -> dict[str, Any]:
    """Empty where there is none, or a damaged one: logs are no part of the data."""
    try:
        return unseal(path.read_bytes())
    except (OSError, ValueError):
        return {}


def read_receipt(store: Location, shard: int) -> Receipt | None:
    """The receipt of a shard, or None when there is none that can be read: then the shard is to be done again."""
    try:
        values = unseal(receipt_path(store, shard).read_bytes())
        files = {_inside(k): v and (int(v[0]), str(v[1])) for k, v in values.pop("files").items()}
        del values["seal"]
        receipt = Receipt(files=files, **{**values, "frames": tuple(values["frames"])})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return None  # half a receipt can only come from a damaged disk; redoing the shard mends it
    return receipt if receipt.shard == shard else None


def _inside(name: str) -> str:
    """A path relative to its store. ValueError for one that leads out of it: receipts come with downloaded stores."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} leads out of the store")
    return name


def write_shard(
    store: str | Location,
    shard: int,
    frames: tuple[int, int],
    specs: dict[str, ArraySpec],
    arrays: dict[str, np.ndarray],
    *,
    counts: dict[str, int],
    quarantined: dict[str, str],
    notes: dict[str, str],
    log: dict[str, Any],
) -> Receipt:
    """Write frames lo..hi (exactly one shard) of every array, and the receipt last.

    arrays: name -> [hi - lo, ...] of the spec's dtype (object arrays of bytes for variable-length ones).
    Raises `OSError` when the location fails or gives back other data than was written; no receipt then.
    """
    assert set(arrays) == set(specs), sorted(set(arrays) ^ set(specs))
    store = location(store)
    attributes, _ = read_metadata(store)
    drop_receipt(store, shard)
    files = {}
    for name, spec in specs.items():
        values = arrays[name]
        rows = spec.rows(frames[1] - frames[0])
        assert values.shape == (rows[:1] if spec.dtype == BYTES else rows), (name, values.shape, frames)
        assert values.dtype == (object if spec.dtype == BYTES else spec.dtype), (name, values.dtype)
        key = shard_key(name, spec, shard)
        files[key] = _put(store / key, encode_shard(spec, values, attributes.shard_frames))
    sync_above(store, [key for key, file in files.items() if file])
    receipt = Receipt(shard, frames, files, counts, quarantined, notes, identity(attributes))
    write_log(log_path(store, shard), log)
    write_file(receipt_path(store, shard), receipt.to_json())
    return receipt


def drop_receipt(store: Location, shard: int) -> None:
    """Have a shard done again: without its receipt it is not finished, whatever is there."""
    receipt_path(store, shard).unlink(missing_ok=True)
    folder = store / "_done"
    if isinstance(folder, Path) and folder.exists():
        sync(folder)


def sync_above(store: Location, keys: list[str]) -> None:
    """Make sure of the folders that lead to new files; those right above them were synced with the files."""
    if isinstance(store, Path):
        for folder in sorted({p for key in keys for p in (store / key).parent.parents if store in p.parents}):
            sync(folder)


def _put(path: Location, content: bytes | None) -> tuple[int, str] | None:
    """Write one file and read it back; gives its checksum."""
    if content is None:
        path.unlink(missing_ok=True)
        return None
    write_file(path, content)
    if path.read_bytes() != content:
        raise OSError(f"{path} does not read back as it was written; check the disk")
    return checksum(content)
