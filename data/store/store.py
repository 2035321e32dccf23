"""Reading stores: the clip store, and the caches of proposals and audio features made from it.

Every store is complete or resumable, and says so: only shards with a valid receipt can be read.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ...errors import BadInput, ComboError
from ..clip import Clip
from ..masks import unpack_masks
from .attributes import AudioAttributes, ClipAttributes, ProposalAttributes
from .checksummed_json import digest, dump_checksummed, load_checksummed
from .clip_table import ClipTable
from .location import REQUESTS_AT_ONCE, Location, UrlPath, files_below, location, names_in, reaching, sizes, write_file
from .metadata import CLIP_TABLE, identity, is_begun, read_metadata
from .receipts import Receipt, invalidate_shard, read_receipt
from .schema import BYTES, array_specs, open_array, shard_key
from .shard_reader import read_shard

AT_IMPORT = "quarantined at import"  # why clips have no data in caches, when they have none in the clip store
PART_OF = "part_of.json"  # in a clip store that holds some shards of another: the fingerprint of all of them


class Store:
    """One Zarr group whose shards are written with receipts; see `root` for making and finding them.

    path: a folder or a URL. Raises `BadInput` when no store is there, or its zarr.json is damaged.
    """

    def __init__(self, path: str | Location) -> None:
        self.path = location(path)
        self.attributes, self.metadata_files = read_metadata(self.path)
        self.kind = self.attributes.kind
        self.frames = self.attributes.frames
        self.shard_frames = self.attributes.shard_frames
        self.specs = array_specs(self.attributes)
        self.identity = identity(self.attributes)
        self._receipts: dict[int, Receipt] = {}  # those found valid
        self._arrays: dict[str, Any] = {}  # open handles, behind a URL

    @property
    def num_shards(self) -> int:
        return -(-self.frames // self.shard_frames)

    def shard_range(self, shard: int) -> tuple[int, int]:
        """First frame and end of a shard."""
        return shard * self.shard_frames, min((shard + 1) * self.shard_frames, self.frames)

    def done_shards(self) -> set[int]:
        """Shards that have a receipt, valid or not, from one listing: for counting progress, not for reading."""
        numbers = (name.removesuffix(".json") for name in names_in(self.path / "_done"))
        return {int(n) for n in numbers if n.isdecimal() and int(n) < self.num_shards}

    def receipts(self) -> dict[int, Receipt]:
        """The receipts of all finished shards, in order. Each is checked once by this object; new ones are found."""
        done = self.done_shards()
        new = sorted(done - self._receipts.keys())
        # Behind a URL one listing costs less than a request for every file; elsewhere threads wait for the network.
        listed = files_below(self.path) if new and isinstance(self.path, UrlPath) else None
        with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:
            found = list(pool.map(lambda shard: self.finished(shard, listed), new))
        self._receipts |= {r.shard: r for r in found if r is not None}
        return {s: self._receipts[s] for s in sorted(done) if s in self._receipts}

    def finished(self, shard: int, listed: Mapping[str, int] | None = None) -> Receipt | None:
        """The receipt of a shard if it is valid and every file it lists is there with its size, looked up anew.

        Contents are for `verify.check_shard`. listed: bytes of every file of the store, where they are known already.
        """
        receipt = read_receipt(self.path, shard)
        if receipt is None or self.check_receipt(receipt):
            return None
        there = sizes(self.path, list(receipt.files)) if listed is None else listed
        whole = all(there.get(name) == (file and file[0]) for name, file in receipt.files.items())
        return receipt if whole else None

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

    def invalidate(self, shards: Iterable[int]) -> None:
        """Remove the receipts of these shards, so that the job that made them does exactly these again."""
        for shard in shards:
            self._receipts.pop(shard, None)
            invalidate_shard(self.path, shard)

    def check_receipt(self, receipt: Receipt) -> str | None:
        """Why a receipt is invalid in this store; None: it is not."""
        keys = {shard_key(name, spec, receipt.shard) for name, spec in self.specs.items()}
        if missing := keys - receipt.files.keys():
            return f"its receipt leaves arrays out ({', '.join(sorted(missing))})"
        if receipt.store != self.identity or keys != receipt.files.keys():
            return "its receipt belongs to another store"
        return None if receipt.frames == self.shard_range(receipt.shard) else "its receipt is for other frames"

    def read(self, name: str, lo: int, hi: int) -> np.ndarray:
        """Frames lo..hi of one array of fixed width, [hi - lo, ...], checksums verified.

        Raises `ComboError` when a shard was never finished or its data are damaged.
        """
        parts = self._read_parts(name, lo, hi)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def read_bytes(self, name: str, lo: int, hi: int) -> list[bytes]:
        """Frames lo..hi of a variable-length array. Raises as `read`."""
        return [value for part in self._read_parts(name, lo, hi) for value in part]

    def _read_parts(self, name: str, lo: int, hi: int) -> list[np.ndarray]:
        """One per shard."""
        found = self._require_finished(lo, hi)
        return [self._read_part(name, r, max(lo, r.frames[0]), min(hi, r.frames[1])) for r in found]

    def _read_part(self, name: str, receipt: Receipt, first: int, end: int) -> np.ndarray:
        """A file that should be there and is not is an error; one that its receipt knows to be absent is fill value."""
        spec = self.specs[name]
        file = shard_key(name, spec, receipt.shard)
        if receipt.files[file] is None:
            return spec.empty(end - first)
        try:
            if isinstance(self.path, UrlPath):
                return self._read_remote(name, first, end)
            if spec.dtype == BYTES:
                return np.asarray(open_array(self.path / name)[first:end])
            begin = receipt.frames[0]
            return read_shard(self.path / file, spec, self.shard_frames, first - begin, end - begin)
        except (ValueError, RuntimeError, FileNotFoundError) as error:
            what = f"shard {receipt.shard} is damaged ({str(error).splitlines()[0]})"
            raise ComboError(f"{self.path / name}: {what}; {_remedy(self.kind)}") from error

    def _read_remote(self, name: str, first: int, end: int) -> np.ndarray:
        try:
            if name not in self._arrays:
                self._arrays[name] = open_array(self.path / name)
            return self._arrays[name][first:end]
        except (ValueError, RuntimeError, OSError):
            raise
        except Exception as error:  # of the driver: a lost connection, credentials that have expired
            raise OSError(f"{self.path / name}: {type(error).__name__}: {error}") from error

    def _require_finished(self, lo: int, hi: int) -> list[Receipt]:
        """The receipts of the shards that frames lo..hi lie in."""
        if not 0 <= lo < hi <= self.frames:
            raise IndexError(f"{self.path}: frames {lo}..{hi} of {self.frames}")
        receipts = []
        for shard in range(lo // self.shard_frames, (hi - 1) // self.shard_frames + 1):
            receipt = self._receipts.get(shard) or self.finished(shard)
            if receipt is None:
                what = f"shard {shard} (frames {lo}..{hi}) is not finished"
                raise ComboError(f"{self.path}: {what}; {_remedy(self.kind)}")
            self._receipts[shard] = receipt
            receipts.append(receipt)
        return receipts


class ClipStore(Store):
    """clips.zarr: everything that was imported."""

    def __init__(self, root: str | Location) -> None:
        path = location(root) / "clips.zarr"
        with reaching(path):
            if not is_begun(path):
                raise BadInput(f"{root}: no clips.zarr here; make it with 'combo import ... {root}'")
        super().__init__(path)
        self.table = ClipTable.read(path / CLIP_TABLE)
        if not isinstance(self.attributes, ClipAttributes):
            raise BadInput(f"{path}: a store of {self.kind}, not of clips")
        self.dataset, self.parameters = self.attributes.dataset, self.attributes.parameters
        self.classes, self.size = self.attributes.classes, self.attributes.size
        self._fingerprint: str | None = None
        if self.table.digest() != self.attributes.plan_sha256:
            raise BadInput(f"{path}: the clip table is not the one this store was made with; import the clips again")

    def fingerprint(self) -> str:
        """Hash of all contents, computed once. Raises `BadInput` when the import has not finished.

        A store that holds a part of another, such as one split, has the fingerprint of the whole.
        """
        if self._fingerprint is None:
            receipts = self.receipts()
            if missing := self.num_shards - len(receipts):
                self._fingerprint = self._adopted_fingerprint()
            else:
                self._fingerprint = digest([self.attributes.to_json(), [r.files for r in receipts.values()]])
            if self._fingerprint is None:
                raise BadInput(f"{self.path}: {missing} of {self.num_shards} shards are missing; {_remedy(self.kind)}")
        return self._fingerprint

    def adopt_fingerprint(self, fingerprint: str) -> None:
        """Say of which whole this unfinished store is a part, so that caches made from the whole fit it."""
        if self.unfinished():
            write_file(self.path / PART_OF, dump_checksummed({"fingerprint": fingerprint, "seal": ""}))
        self._fingerprint = None

    def _adopted_fingerprint(self) -> str | None:
        try:
            return str(load_checksummed((self.path / PART_OF).read_bytes())["fingerprint"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError) as error:
            raise BadInput(f"{self.path / PART_OF} is damaged ({error}); bring it from where the store came") from error

    def span(self, row: int) -> tuple[int, int]:
        """First frame and end of a clip."""
        first = int(self.table.first_frame[row])
        return first, first + int(self.table.num_frames[row])

    def usable_rows(self, split: str | None, *caches: "Cache") -> np.ndarray:
        """int64 [n]: the rows of a split without the clips that are quarantined here or in one of the caches."""
        bad = {clip for store in (self, *caches) for clip in store.quarantined()}
        rows = self.table.rows(split)
        return np.array([r for r in rows if self.table[int(r)].id not in bad], np.int64) if bad else rows

    def shards_of(self, split: str | None) -> list[int]:
        """The shards that hold any clip of a split."""
        return sorted({int(f) // self.shard_frames for f in self.table.first_frame[self.table.rows(split)]})

    def clips_in(self, shard: int) -> list[tuple[int, Clip]]:
        """(first frame, clip) of every clip of a shard."""
        lo, hi = self.shard_range(shard)
        rows = range(*np.searchsorted(self.table.first_frame, (lo, hi)))
        return [(int(self.table.first_frame[r]), self.table[r]) for r in rows]

    def usable_in(self, shard: int) -> list[tuple[int, Clip]]:
        """`clips_in` without the quarantined clips. Looks at the receipt of this shard alone."""
        receipt = self.finished(shard)
        bad = receipt.quarantined if receipt else {}
        return [(first, clip) for first, clip in self.clips_in(shard) if clip.id not in bad]


class Cache(Store):
    """What one proposal generator or audio encoder made of a clip store."""

    def __init__(self, path: str | Location) -> None:
        super().__init__(path)
        if isinstance(self.attributes, ClipAttributes):
            raise BadInput(f"{self.path}: a store of clips, not a cache")
        self.provenance, self.clips_fingerprint = self.attributes.provenance, self.attributes.clips_fingerprint

    @property
    def name(self) -> str:
        """For example felzenszwalb-1a2b3c4d5e6f."""
        return self.path.stem

    @property
    def dim(self) -> int:
        """D, the width of the features of an audio cache."""
        return self._of_audio().dim

    @property
    def control_features(self) -> dict[str, list[list[float]]]:
        """The control features of an audio cache: those of "silence" and "noise", [L][D]."""
        return self._of_audio().probes

    def _of_audio(self) -> AudioAttributes:
        if not isinstance(self.attributes, AudioAttributes):
            raise TypeError(f"{self.path} holds {self.kind}, not audio")
        return self.attributes

    def read_masks(self, lo: int, hi: int) -> list[np.ndarray]:
        """bool [K, H, W] for each of the frames lo..hi of a proposals cache, by one read."""
        if not isinstance(self.attributes, ProposalAttributes):
            raise TypeError(f"{self.path} holds {self.kind}, not proposals")
        height, width = self.attributes.size
        return [unpack_masks(packed, height, width) for packed in self.read_bytes("masks", lo, hi)]


def _remedy(kind: str) -> str:
    command = "combo import" if kind == "clips" else "combo precompute"
    return f"run the same '{command}' again, it does only what is missing"
