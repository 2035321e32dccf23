"""Commit a shard: write its files, verify them, flush them to the disk, and publish its receipt last.

One task owns one shard of every array of a store. A kill at any instant leaves either no receipt, and the shard is done
again, or everything.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ...errors import ComboError
from ...files import sync
from .location import write_file
from .metadata import Checksums, checksum
from .receipts import Receipt, invalidate_shard, log_path, receipt_path
from .schema import BYTES, encode_shard, shard_key
from .store import Store


def commit_shard(
    store: Store,
    shard: int,
    arrays: dict[str, np.ndarray],
    *,
    counts: dict[str, int],
    quarantined: dict[str, str],
    notes: dict[str, str],
) -> Receipt:
    """Write one shard of every array. Lock the store while it runs.

    arrays: [hi - lo, ...] by name, of the dtype of its spec (object arrays of bytes for variable-length ones).
    counts, quarantined, notes: as in `Receipt`.
    Raises `OSError` when the location fails or returns other data than were written; there is no receipt then.
    """
    assert arrays.keys() == store.specs.keys(), sorted(arrays.keys() ^ store.specs.keys())
    frames = store.shard_range(shard)

    def encoded() -> Iterator[tuple[str, bytes | None]]:
        for name, spec in store.specs.items():
            values, rows = arrays[name], spec.rows(frames[1] - frames[0])
            assert values.shape == (rows[:1] if spec.dtype == BYTES else rows), (name, values.shape, frames)
            assert values.dtype == (object if spec.dtype == BYTES else spec.dtype), (name, values.dtype)
            yield shard_key(name, spec, shard), encode_shard(spec, values, store.shard_frames)

    files = _write_files(store, shard, encoded())
    receipt = Receipt(shard, frames, files, counts, quarantined, notes, store.identity)
    write_file(receipt_path(store.path, shard), receipt.to_json())
    return receipt


def copy_shard(source: Store, target: Store, receipt: Receipt) -> None:
    """Copy a shard that `source` has finished to a store of the same attributes. Lock the target while it runs.

    Raises `ComboError` when a file is not what the receipt says, and `OSError` as `commit_shard`.
    """
    assert source.attributes == target.attributes

    def stored() -> Iterator[tuple[str, bytes | None]]:
        for name, expected in receipt.files.items():
            content = None if expected is None else (source.path / name).read_bytes()
            if content is not None and checksum(content) != expected:
                raise ComboError(f"{source.path / name} is damaged; run 'combo cache verify' there")
            yield name, content

    _write_files(target, receipt.shard, stored())
    log = log_path(source.path, receipt.shard)
    if log.exists():
        write_file(log_path(target.path, receipt.shard), log.read_bytes())
    write_file(receipt_path(target.path, receipt.shard), receipt.to_json())


def _write_files(store: Store, shard: int, contents: Iterable[tuple[str, bytes | None]]) -> Checksums:
    """Invalidate a shard and replace its files, by their names in the store. None: there must be no such file."""
    invalidate_shard(store.path, shard)
    files: Checksums = {}
    for name, content in contents:
        path = store.path / name
        if content is None:
            path.unlink(missing_ok=True)
            files[name] = None
            continue
        write_file(path, content)
        if path.read_bytes() != content:
            raise OSError(f"{path} does not read back as it was written; check the disk")
        files[name] = checksum(content)
    if isinstance(store.path, Path):  # write_file has flushed the folder of each file, but not those above
        written = (store.path / name for name, file in files.items() if file)
        for folder in sorted({p for path in written for p in path.parent.parents if store.path in p.parents}):
            sync(folder)
    return files
