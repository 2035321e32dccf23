"""A store of four shards in any location, and everything that may happen to it, against a dictionary of its files.

The dictionary is the store as an uninterrupted run makes it. Whatever happens, verify must speak of exactly those
shards whose files differ from the dictionary, reading must give the data of the dictionary or an error, and what
resume and repair leave must be the dictionary. Subclass `StoreMachine` to add rules.
"""

import shutil
import tempfile
from pathlib import Path

import h5py
import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from store_locations import contents, killed_at, open_place

from combo_avs.data.store.attributes import ProposalAttributes, Provenance
from combo_avs.data.store.commit import commit_shard, copy_shard
from combo_avs.data.store.hdf5 import read_store, write_store
from combo_avs.data.store.location import files_below, location, write_file
from combo_avs.data.store.locks import lock_store
from combo_avs.data.store.receipts import log_path, write_log
from combo_avs.data.store.root import create_store
from combo_avs.data.store.store import Cache
from combo_avs.data.store.verify import check_store, repair
from combo_avs.errors import BadInput, ComboError
from combo_avs.files import is_temporary

SHARDS = 4
ATTRIBUTES = ProposalAttributes(35, 10, Provenance("fake", "1", {}), clips_fingerprint="0" * 64, size=(4, 4))
METADATA = ("zarr.json", "maskige/zarr.json", "masks/zarr.json", "mask_stats/zarr.json", "mask_count/zarr.json")


def rows(cache: Cache, shard: int) -> dict[str, np.ndarray]:
    """Arrays of one shard; a Maskige of shard 0 is nothing but fill value."""
    lo, hi = cache.shard_range(shard)
    rng = np.random.default_rng(shard)
    arrays = {name: spec.empty(hi - lo) for name, spec in cache.specs.items()}
    arrays["maskige"][:] = rng.integers(0, 256, arrays["maskige"].shape) * (shard > 0)
    arrays["mask_count"][:] = rng.integers(0, 9, hi - lo)
    for name in ("masks", "mask_stats"):
        arrays[name][:] = [rng.bytes(int(rng.integers(0, 40))) for _ in range(hi - lo)]
    return arrays


def write(cache: Cache, shard: int) -> None:
    bad = {"clip-1": "cannot be read"} if shard == 1 else {}
    write_log(log_path(cache.path, shard), {"seconds_per_frame": 0.5})
    commit_shard(cache, shard, rows(cache, shard), counts={"masks": shard}, quarantined=bad, notes={})


def finish(path) -> Cache:
    """What a job does on every start: metadata, hold, everything that has no valid receipt."""
    create_store(path, ATTRIBUTES, None)
    cache = Cache(path)
    with lock_store(cache.path):
        for shard in cache.unfinished():
            write(cache, shard)
    return cache


def shard_of(name: str) -> int | None:
    """The shard that a file of a store belongs to; None: metadata, and files of no shard."""
    if name in METADATA:
        return None
    shard = int(Path(name).stem) if name.startswith("_done/") else int(name.split("/")[2])
    return shard if shard < SHARDS else None


def has_files(machine: "StoreMachine") -> bool:
    return bool(contents(machine.path))


class StoreMachine(RuleBasedStateMachine):
    KIND = "folder"

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = location(open_place(self.KIND, self.folder)) / "fake.zarr"
        self.whole = contents(finish(self.path).path)

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def differing(self) -> set[str]:
        """Names of files that are not as in the dictionary, but for temporary ones of killed writers."""
        now = {name: content for name, content in contents(self.path).items() if not is_temporary(Path(name).name)}
        return {name for name in now.keys() | self.whole.keys() if now.get(name) != self.whole.get(name)}

    def bad_shards(self) -> set[int]:
        return {s for name in self.differing() if (s := shard_of(name)) is not None}

    def opens(self) -> bool:
        return "zarr.json" not in self.differing()

    @initialize(done=st.sets(st.integers(0, SHARDS - 1)))
    def begin(self, done: set[int]) -> None:
        Cache(self.path).invalidate(set(range(SHARDS)) - done)

    @rule(shard=st.integers(0, SHARDS - 1))
    def write_shard(self, shard: int) -> None:
        create_store(self.path, ATTRIBUTES, None)
        write(Cache(self.path), shard)
        assert shard not in self.bad_shards()

    @rule(shard=st.integers(0, SHARDS - 1), step=st.integers(0, 45))
    def kill_while_writing(self, shard: int, step: int) -> None:
        with killed_at(step):
            create_store(self.path, ATTRIBUTES, None)
            write(Cache(self.path), shard)

    @rule()
    def resume(self) -> None:
        """Finds what is missing or has another size; what has the same size is for verify."""
        cache = finish(self.path)
        assert cache.unfinished() == []
        now = contents(self.path)
        differing = self.differing() & self.whole.keys()
        assert not [n for n in differing if n in METADATA or len(now.get(n, b"")) != len(self.whole[n])]

    @precondition(has_files)
    @rule(data=st.data())
    def damage_a_byte(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(contents(self.path))))
        content = bytearray((self.path / name).read_bytes())
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            (self.path / name).write_bytes(bytes(content))

    @precondition(has_files)
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(contents(self.path))))
        content = (self.path / name).read_bytes()
        (self.path / name).write_bytes(content[: data.draw(st.integers(0, len(content)))])

    @precondition(has_files)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        (self.path / data.draw(st.sampled_from(sorted(contents(self.path))))).unlink()

    @rule(name=st.sampled_from(["maskige/c/0/0/0/0", "masks/c/9", "_done/000009.json"]))
    def lay_a_stray(self, name: str) -> None:
        write_file(self.path / name, b"stray")

    @rule()
    def verify(self) -> None:
        if not self.opens():
            return
        found = {shard for shard, what in check_store(Cache(self.path)) if what}
        assert found - {None} == self.bad_shards()
        of_no_shard = [n for n in self.differing() if shard_of(n) is None]
        assert (None in found) == bool(of_no_shard)

    @rule()
    def repair(self) -> None:
        create_store(self.path, ATTRIBUTES, None)
        cache, bad = Cache(self.path), self.bad_shards()
        with lock_store(cache.path):
            assert set(repair(cache)) == bad
        finish(self.path)
        assert contents(self.path) == self.whole
        assert not any(what for _, what in check_store(Cache(self.path)))

    @rule(shard=st.integers(0, SHARDS - 1), data=st.data())
    def reopen_and_read(self, shard: int, data: st.DataObject) -> None:
        if not self.opens():
            try:
                Cache(self.path)
            except BadInput:
                return
            raise AssertionError("a store with a damaged zarr.json was opened")
        cache = Cache(self.path)
        lo, hi = cache.shard_range(shard)
        first = data.draw(st.integers(lo, hi - 1))
        end = data.draw(st.integers(first + 1, hi))
        for name, values in rows(cache, shard).items():
            read = cache.read_bytes if name.startswith("mask") and name in ("masks", "mask_stats") else cache.read
            try:
                got = read(name, first, end)
            except ComboError:
                assert shard in self.bad_shards() or self.differing() & set(METADATA)
            else:
                assert np.array_equal(got, values[first - lo : end - lo])

    @rule()
    def export_and_import(self) -> None:
        """What comes back from HDF5 is as in the dictionary; damaged shards do not get out."""
        if not self.opens():
            return
        cache = Cache(self.path)
        shards = sorted(cache.receipts())
        file, back = self.folder / "store.h5", self.folder / "back" / "fake.zarr"
        try:
            with h5py.File(file, "w") as target:
                write_store(target.create_group("store"), cache, shards, "0" * 64, lambda: None)
        except ComboError:
            assert self.bad_shards() & set(shards) or self.differing() & set(METADATA)
            return
        with h5py.File(file) as source:
            read_store(source["store"], back, lambda: None)
        came_back = contents(back)
        shutil.rmtree(back.parent)
        assert came_back == {n: c for n, c in self.whole.items() if n in METADATA or shard_of(n) in shards}

    @rule()
    def merge(self) -> None:
        """Finished shards copied into an empty store are as in the dictionary; damaged ones are not copied."""
        if not self.opens():
            return
        cache, target = Cache(self.path), self.folder / "merged" / "fake.zarr"
        create_store(target, ATTRIBUTES, None)
        copied = set()
        for shard, receipt in cache.receipts().items():
            try:
                copy_shard(cache, Cache(target), receipt)
            except ComboError:
                assert shard in self.bad_shards()
            else:
                copied.add(shard)
        now = contents(target)
        shutil.rmtree(target.parent)
        assert now.keys() >= {n for n in self.whole if n in METADATA or shard_of(n) in copied}
        wrong = {n for n, c in now.items() if self.whole.get(n) != c}
        assert not wrong

    @invariant()
    def no_file_leaves_the_store(self) -> None:
        assert {name.split("/")[0] for name in files_below(self.path.parent)} == {"fake.zarr"}
