"""Receipts: only a shard with a valid receipt is finished.

Equal work has equal receipts: what depends on time, host or device goes to a log beside it.
"""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ...files import sync
from .checksummed_json import dump_checksummed, load_checksummed
from .location import Location, write_file
from .metadata import Checksums


@dataclass(frozen=True)
class Receipt:
    """What is known of a finished shard.

    files: (bytes, sha256) by name in the store; None for a shard of nothing but fill value, which Zarr does not write.
    quarantined: clips without data, and why. notes: clips whose data are odd, and how. store: its `identity`.
    """

    shard: int
    frames: tuple[int, int]
    files: Checksums
    counts: dict[str, int] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    store: str = ""

    def to_json(self) -> bytes:
        return dump_checksummed({**vars(self), "seal": ""})


def receipt_path(store: Location, shard: int) -> Location:
    return store / "_done" / f"{shard:06d}.json"


def log_path(store: Location, shard: int) -> Location:
    return store / "_log" / f"{shard:06d}.json"


def write_log(path: Location, log: dict[str, Any]) -> None:
    write_file(path, dump_checksummed({**log, "seal": ""}))


def read_log(path: Location) -> dict[str, Any]:
    """Empty where there is none, or a damaged one: logs are no part of the data."""
    try:
        return load_checksummed(path.read_bytes())
    except (OSError, ValueError):
        return {}


def read_receipt(store: Location, shard: int) -> Receipt | None:
    """The receipt of a shard; None where there is none, or a damaged one: the shard is done again then."""
    try:
        values = load_checksummed(receipt_path(store, shard).read_bytes())
        files = {_inside(k): v and (int(v[0]), str(v[1])) for k, v in values.pop("files").items()}
        del values["seal"]
        receipt = Receipt(files=files, **{**values, "frames": tuple(values["frames"])})
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, KeyError, AttributeError, IndexError):
        return None
    return receipt if receipt.shard == shard else None


def _inside(name: str) -> str:
    """A path relative to its store. ValueError for one that leads out of it: receipts come with downloaded stores."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name!r} leads out of the store")
    return name


def invalidate_shard(store: Location, shard: int) -> None:
    """Remove the receipt of a shard, so that the shard counts as unfinished."""
    receipt_path(store, shard).unlink(missing_ok=True)
    folder = store / "_done"
    if isinstance(folder, Path) and folder.exists():
        sync(folder)
