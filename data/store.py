"""Reading stores: the clip store, and the caches of proposals and audio features made from it.

Every store is complete or resumable, and says so: only shards with a valid receipt can be read.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from ..errors import BadInput, ComboError
from .clip import Clip
from .clip_table import ClipTable
from .masks import unpack_masks, unpack_stats
from .receipts import Receipt, damage, finished
from .schema import SCHEMA_VERSION, ArraySpec, audio_arrays, clip_arrays, open_array, proposal_arrays


def digest(value: Any) -> str:
    """sha256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Store:
    """One Zarr group whose shards are written with receipts; see `cache_root` for making and finding them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.attributes: dict[str, Any] = json.loads((path / "zarr.json").read_bytes())["attributes"]
            version = self.attributes["schema"]
            self.kind: str = self.attributes["kind"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path}: not a store of this package ({type(error).__name__}: {error})") from error
        if version != SCHEMA_VERSION:
            raise BadInput(
                f"{path}: schema version {version}; this package reads version {SCHEMA_VERSION}. "
                "Make it again with this package, or use the package version that made it"
            )
        self.frames: int = self.attributes["frames"]
        self.shard_frames: int = self.attributes["shard_frames"]
        self.specs = array_specs(self.attributes)
        self._arrays: dict[str, ts.TensorStore] = {}
        self._readable: set[int] = set()

    @property
    def num_shards(self) -> int:
        return -(-self.frames // self.shard_frames)

    def shard_range(self, shard: int) -> tuple[int, int]:
        """First frame and end of a shard."""
        return shard * self.shard_frames, min((shard + 1) * self.shard_frames, self.frames)

    def receipts(self) -> dict[int, Receipt]:
        """The receipts of all finished shards."""
        found = ((shard, self.finished(shard)) for shard in range(self.num_shards))
        return {shard: receipt for shard, receipt in found if receipt is not None}

    def finished(self, shard: int) -> Receipt | None:
        """The receipt of a shard if it is valid and speaks for every array of the store."""
        receipt = finished(self.path, shard)
        if receipt is None or {name.split("/")[0] for name in receipt.files} != set(self.specs):
            return None
        return receipt

    def unfinished(self) -> list[int]:
        """Shards without a valid receipt."""
        done = self.receipts()
        return [shard for shard in range(self.num_shards) if shard not in done]

    def quarantined(self) -> dict[str, str]:
        """Clips that could not be processed, with the reason."""
        return {clip: why for r in self.receipts().values() for clip, why in r.quarantined.items()}

    def notes(self) -> dict[str, str]:
        """Clips with something odd about them, and what."""
        return {clip: note for r in self.receipts().values() for clip, note in r.notes.items()}

    def damaged(self) -> Iterator[tuple[int, str | None]]:
        """Every shard, and what is wrong with it (None: nothing), from a full read of all files."""
        for shard in range(self.num_shards):
            what = damage(self.path, shard)
            incomplete = what is None and self.finished(shard) is None
            yield shard, "its receipt leaves arrays out" if incomplete else what

    def read(self, name: str, lo: int, hi: int) -> np.ndarray:
        """Frames lo..hi of one array, [hi - lo, ...], checksums verified.

        Raises `ComboError` when a shard was never finished or its data are damaged.
        """
        self._require_finished(lo, hi)
        if name not in self._arrays:
            spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str((self.path / name).absolute())}}
            self._arrays[name] = ts.open(spec, open=True, read=True).result()
        try:
            return self._arrays[name][lo:hi].read().result()
        except ValueError as error:
            raise self._unreadable(name, lo, error) from error

    def read_bytes(self, name: str, lo: int, hi: int) -> list[bytes]:
        """Frames lo..hi of a variable-length array (tensorstore cannot read these)."""
        self._require_finished(lo, hi)
        try:
            return list(open_array(self.path / name, "r")[lo:hi])
        except (ValueError, RuntimeError) as error:
            raise self._unreadable(name, lo, error) from error

    def _require_finished(self, lo: int, hi: int) -> None:
        if not 0 <= lo < hi <= self.frames:
            raise IndexError(f"{self.path}: frames {lo}..{hi} of {self.frames}")
        for shard in range(lo // self.shard_frames, (hi - 1) // self.shard_frames + 1):
            if shard not in self._readable:
                if self.finished(shard) is None:
                    raise ComboError(
                        f"{self.path}: shard {shard} (frames {lo}..{hi}) is not finished; {_redo(self.kind)}"
                    )
                self._readable.add(shard)

    def _unreadable(self, name: str, lo: int, error: Exception) -> ComboError:
        shard = lo // self.shard_frames
        reason = str(error).splitlines()[0]
        return ComboError(f"{self.path / name}: shard {shard} is damaged ({reason}); {_redo(self.kind)}")


class ClipStore(Store):
    """clips.zarr: everything that was imported."""

    def __init__(self, root: Path) -> None:
        path = root / "clips.zarr"
        if not path.is_dir():
            raise BadInput(f"{root}: no clips.zarr here; make it with 'combo import ... {root}'")
        super().__init__(path)
        self.table = ClipTable.read(path / "clips.parquet")
        self.classes: tuple[str, ...] = tuple(self.attributes["classes"])
        self.size: tuple[int, int] = tuple(self.attributes["size"])
        self._fingerprint: str | None = None
        if self.table.digest() != self.attributes["plan_sha256"]:
            raise BadInput(f"{path}: the clip table is not the one this store was made with; import the clips again")

    def fingerprint(self) -> str:
        """Hash of all contents. Raises `BadInput` when the import has not finished.

        Computed once: a finished store does not change, and each time would read every receipt.
        """
        if self._fingerprint is None:
            receipts = self.receipts()
            if len(receipts) < self.num_shards:
                missing = self.num_shards - len(receipts)
                raise BadInput(f"{self.path}: {missing} of {self.num_shards} shards are missing; {_redo(self.kind)}")
            self._fingerprint = digest([self.attributes, [receipts[s].files for s in sorted(receipts)]])
        return self._fingerprint

    def span(self, row: int) -> tuple[int, int]:
        """First frame and end of a clip."""
        first = int(self.table.first_frame[row])
        return first, first + int(self.table.num_frames[row])

    def usable_rows(self, split: str | None) -> np.ndarray:
        """int64 [n]: the rows of a split without the quarantined clips."""
        bad = self.quarantined()
        rows = self.table.rows(split)
        return np.array([r for r in rows if self.table[int(r)].id not in bad]) if bad else rows

    def shards_of(self, split: str | None) -> list[int]:
        """The shards that hold any clip of a split."""
        return sorted({int(f) // self.shard_frames for f in self.table.first_frame[self.table.rows(split)]})

    def clips_in(self, shard: int) -> list[tuple[int, Clip]]:
        """(first frame, clip) of every clip of a shard."""
        lo, hi = self.shard_range(shard)
        rows = range(*np.searchsorted(self.table.first_frame, (lo, hi)))
        return [(int(self.table.first_frame[r]), self.table[r]) for r in rows]


class Cache(Store):
    """What one proposal generator or audio encoder made of a clip store."""

    @property
    def name(self) -> str:
        """For example felzenszwalb-1a2b3c4d5e6f."""
        return self.path.stem

    @property
    def maker(self) -> dict[str, Any]:
        """name, version, parameters and weights_sha256 of the generator or encoder."""
        return self.attributes["maker"]

    def read_masks(self, frame: int) -> np.ndarray:
        """bool [K, H, W]: the masks of one frame of a proposals cache."""
        return unpack_masks(self.read_bytes("masks", frame, frame + 1)[0], *self.attributes["size"])

    def read_stats(self, frame: int) -> np.ndarray:
        """[K] records `masks.MASK_STATS` of one frame of a proposals cache."""
        return unpack_stats(self.read_bytes("mask_stats", frame, frame + 1)[0])


def array_specs(attributes: dict[str, Any]) -> dict[str, ArraySpec]:
    """The arrays of a store with these attributes."""
    if attributes["kind"] == "clips":
        return clip_arrays(*attributes["size"])
    if attributes["kind"] == "proposals":
        return proposal_arrays(*attributes["size"])
    return audio_arrays(attributes["dim"])


def _redo(kind: str) -> str:
    command = "combo import" if kind == "clips" else "combo precompute"
    return f"run the same '{command}' again, it does only what is missing"
