"""How a shard gets done: arrays, read back, checksummed and synced; then a receipt, by rename.

One task owns one shard of every array of a store. Only a valid receipt means that the shard is done; a kill at any
instant leaves either no receipt (the shard is done again) or everything. Nothing that depends on time, host or device
goes into a receipt, so that equal work gives equal bytes; those go to a log beside it.
"""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .schema import BYTES, ArraySpec, open_array


@dataclass(frozen=True)
class Receipt:
    """What is known of a finished shard.

    files maps paths relative to the store to [bytes, sha256], or to None for a shard of nothing but fill value, which
    Zarr does not write: there absence is known to be data. quarantined maps clip ids to the reason why they have no
    data, notes maps clip ids to something odd about data that are there.
    """

    shard: int
    frames: tuple[int, int]
    files: dict[str, tuple[int, str] | None]
    counts: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps(vars(self), sort_keys=True, indent=1) + "\n"


def receipt_path(store: Path, shard: int) -> Path:
    return store / "_done" / f"{shard:06d}.json"


def read_receipt(store: Path, shard: int) -> Receipt | None:
    """The receipt of a shard, or None when there is none that can be read: then the shard is to be done again."""
    try:
        values = json.loads(receipt_path(store, shard).read_bytes())
        files = {_inside(k): v and (int(v[0]), str(v[1])) for k, v in values.pop("files").items()}
        receipt = Receipt(files=files, **{**values, "frames": tuple(values["frames"])})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None  # half a receipt can only come from a damaged disk; redoing the shard mends it
    return receipt if receipt.shard == shard else None


def _inside(name: str) -> str:
    """A path relative to its store. ValueError for one that leads out of it: receipts come with downloaded stores."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{name!r} leads out of the store")
    return name


def finished(store: Path, shard: int) -> Receipt | None:
    """The receipt, if every file that it lists is there with its size. Cheap: contents are for `damage`."""
    receipt = read_receipt(store, shard)
    if receipt is None or any(_file_damage(store, *item) for item in receipt.files.items()):
        return None
    return receipt


def damage(store: Path, shard: int) -> str | None:
    """What is wrong with a shard, from a full read of its files; None when all is well."""
    receipt = read_receipt(store, shard)
    if receipt is None:
        return "no valid receipt: never finished" if not receipt_path(store, shard).exists() else "damaged receipt"
    for name, expected in receipt.files.items():
        if what := _file_damage(store, name, expected):
            return what
        if expected is not None and _sha256(store / name) != expected[1]:
            return f"{name}: contents changed (sha256 differs)"
    return None


def _file_damage(store: Path, name: str, expected: tuple[int, str] | None) -> str | None:
    path = store / name
    if expected is None:
        return f"{name}: should not exist" if path.exists() else None
    if not path.is_file():
        return f"{name}: missing"
    return f"{name}: {path.stat().st_size} bytes, not {expected[0]}" if path.stat().st_size != expected[0] else None


def write_shard(
    store: Path,
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
    Raises `OSError` when the file system fails or gives back other data than was written; no receipt then.
    """
    lo, hi = frames
    assert set(arrays) == set(specs), sorted(set(arrays) ^ set(specs))
    receipt_path(store, shard).unlink(missing_ok=True)
    files = {}
    for name, spec in specs.items():
        _write_array(store / name, (lo, hi), spec, arrays[name])
        key = "/".join([name, "c", str(shard), *["0"] * len(spec.frame_shape)])
        files[key] = (sync(store / key), _sha256(store / key)) if (store / key).exists() else None
    for folder in sorted(
        {p for key, file in files.items() if file for p in (store / key).parents if store in p.parents}
    ):
        sync(folder)
    receipt = Receipt(shard, frames, files, counts, quarantined, notes)
    write_atomic(store / "_log" / f"{shard:06d}.json", json.dumps(log, sort_keys=True, indent=1) + "\n")
    write_atomic(receipt_path(store, shard), receipt.to_json())
    return receipt


def _write_array(path: Path, frames: tuple[int, int], spec: ArraySpec, values: np.ndarray) -> None:
    lo, hi = frames
    assert len(values) == hi - lo, (path.name, values.shape, frames)
    assert spec.dtype == BYTES or (values.dtype == spec.dtype and values.shape == spec.rows(hi - lo)), path.name
    array = open_array(path, "r+")
    array[lo:hi] = values
    if not _same(array[lo:hi], values):
        raise OSError(f"{path}: frames {lo}..{hi} do not read back as they were written; check the disk")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole: readers see the old one or the new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    if a.dtype == object:
        return all(x == y for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def sync(path: Path) -> int:
    """Flush a file or folder to the disk; gives its size in bytes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        return os.fstat(handle).st_size
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
