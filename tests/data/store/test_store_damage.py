"""Verify finds every kind of damage in every file, and repair has exactly the damaged shards done again."""

import dataclasses
import errno
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import NoiseSource
from store_locations import contents

from combo_avs.data.store import clip_table, commit
from combo_avs.data.store.attributes import Provenance
from combo_avs.data.store.checksummed_json import dump_checksummed, load_checksummed
from combo_avs.data.store.clip_table import ClipTable
from combo_avs.data.store.commit import commit_shard
from combo_avs.data.store.location import write_file
from combo_avs.data.store.receipts import Receipt, log_path, read_receipt, receipt_path, write_log
from combo_avs.data.store.root import audio_attributes, create_cache
from combo_avs.data.store.store import Cache, ClipStore
from combo_avs.data.store.verify import check_store, repair
from combo_avs.errors import BadInput
from combo_avs.files import is_temporary
from combo_avs.pipeline.caches.inspect import verify_root
from combo_avs.pipeline.imports.clips import import_clips

SHARD = 20
PROVENANCE = Provenance("fake", "1", {"x": 1})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip store and a small cache. Do not write here; `root` is a copy to play with."""
    root = tmp_path_factory.mktemp("whole")
    import_clips(NoiseSource(), root, SHARD)
    clips = ClipStore(root)
    cache = create_cache(clips, audio_attributes(clips, PROVENANCE, 4, {}))
    for shard in range(cache.num_shards):
        write(cache, shard)
    return root


def write(cache: Cache, shard: int) -> None:
    lo, hi = cache.shard_range(shard)
    arrays = {name: spec.empty(hi - lo) for name, spec in cache.specs.items()}
    arrays["features"][:] = shard + 1
    write_log(log_path(cache.path, shard), {"s": 1.5})
    commit_shard(cache, shard, arrays, counts={"frames": 1}, quarantined={}, notes={})


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "root"))


def every_file(root: Path) -> list[Path]:
    return [p for p in sorted(root.rglob("*")) if p.is_file() and not p.name.startswith("_lock")]


def test_every_flip_and_every_cut_in_every_file_is_found(root: Path) -> None:
    rng = random.Random(0)
    flips = cuts = 0
    for path in every_file(root):
        content = path.read_bytes()
        places = {0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(6))}
        for place in places:
            hurt = bytearray(content)
            hurt[place] ^= 1 << rng.randrange(8)
            path.write_bytes(hurt)
            assert found(root, path), f"bit flipped in byte {place} of {path.relative_to(root)}"
            flips += 1
        for length in {0, 1, len(content) // 2, len(content) - 1}:
            path.write_bytes(content[:length])
            assert found(root, path), f"{path.relative_to(root)} cut to {length} of {len(content)} bytes"
            cuts += 1
        path.write_bytes(content + b"\0")
        assert found(root, path), f"a byte behind the end of {path.relative_to(root)}"
        path.write_bytes(content)
    assert verify_root(root) == []
    print(f"{flips} flips and {cuts} cuts in {len(every_file(root))} files, all found")


def found(root: Path, path: Path) -> bool:
    """Whether verify reports the store that a file belongs to. Only that store is read, which is what takes time."""
    store = next(p for p in path.parents if p.suffix == ".zarr")
    try:
        opened = ClipStore(root) if store.name == "clips.zarr" else Cache(store)
    except BadInput as error:
        return str(store) in str(error)
    return any(problem for _, problem in check_store(opened))


def test_every_deletion_is_found(root: Path) -> None:
    for path in every_file(root):
        if path.parent.name == "_log":
            continue  # no part of the contents; shards that were done elsewhere may come without
        content = path.read_bytes()
        path.unlink()
        assert found(root, path), path.relative_to(root)
        path.write_bytes(content)


@pytest.mark.parametrize("name", ["frames/c/0/0/0/1", "frames/c/99/0/0/0", "label_valid/c/x", "_done/000009.json"])
def test_files_that_no_receipt_lists(root: Path, name: str) -> None:
    path = root / "clips.zarr" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"stray")
    (problem,) = verify_root(root)
    assert (problem["shard"], problem["problem"]) == (None, f"{name}: no receipt lists it")
    assert repair(ClipStore(root)) == []
    assert verify_root(root) == []


def test_what_people_lay_beside_a_store_is_theirs(root: Path) -> None:
    (root / "clips.zarr" / "README.txt").write_text("mine")
    assert verify_root(root) == []


def test_damage_in_one_store_does_not_hide_damage_in_another(root: Path) -> None:
    (root / "clips.zarr" / "zarr.json").write_bytes(b"{")
    (cache,) = (root / "audio").iterdir()
    (cache / "features" / "zarr.json").write_bytes(b"{")
    (cache / "_done" / "000001.json").write_bytes(b"{")
    assert {(Path(p["store"]).name, p["shard"]) for p in verify_root(root)} == {
        ("clips.zarr", None),
        (cache.name, None),
        (cache.name, 1),
    }


@pytest.mark.parametrize("name", ["zarr.json", "clips.parquet", "frames/zarr.json"])
@pytest.mark.parametrize("harm", ["flip", "delete"])
def test_the_same_import_mends_metadata_and_reads_no_clip(root: Path, whole: Path, name: str, harm: str) -> None:
    path = root / "clips.zarr" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink() if harm == "delete" else path.write_bytes(content)
    assert verify_root(root)
    import_clips(source := NoiseSource(), root, SHARD)
    assert source.reads == []
    assert contents(root) == contents(whole)


def test_other_clips_do_not_take_over_a_store_without_its_zarr_json(root: Path) -> None:
    (root / "clips.zarr" / "zarr.json").unlink()
    with pytest.raises(BadInput, match="not of these clips"):
        import_clips(NoiseSource(seed=3), root, SHARD)


def test_repair_drops_exactly_the_damaged_shards(root: Path, whole: Path) -> None:
    (path,) = (root / "audio").iterdir()
    (path / "features" / "c" / "1" / "0").write_bytes(b"rubbish")
    (path / "features" / "zarr.json").unlink()
    (path / "_log" / "000000.json").write_bytes(b"{")
    cache = Cache(path)
    assert repair(cache) == [1]
    assert Cache(path).unfinished() == [1]
    write(cache, 1)
    assert verify_root(root) == []
    assert {n: c for n, c in contents(root).items() if "_log" not in n} == contents(whole)


def test_repair_drops_shards_whose_files_have_the_right_size(root: Path) -> None:
    (path,) = (root / "audio").iterdir()
    file = path / "features" / "c" / "1" / "0"
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    assert Cache(path).unfinished() == []  # sizes do not tell
    assert repair(Cache(path)) == [1]
    assert Cache(path).unfinished() == [1]
    assert not (path / "_done" / "000001.json").exists()


class TestReceipts:
    def test_one_of_another_store_is_no_receipt(self, root: Path) -> None:
        clips = ClipStore(root)
        other = create_cache(clips, audio_attributes(clips, dataclasses.replace(PROVENANCE, version="2"), 4, {}))
        (first,) = (p for p in (root / "audio").iterdir() if p != other.path)
        shutil.copytree(first / "features", other.path / "features", dirs_exist_ok=True)
        shutil.copytree(first / "_done", other.path / "_done")
        assert other.unfinished() == [0, 1, 2]
        found = {what for shard, what in check_store(other) if shard is not None}
        assert found == {"its receipt belongs to another store"}

    @pytest.mark.parametrize(
        "changes",
        [
            {"files": {}},
            {"files": {"../../secret": [3, "ab"]}},
            {"files": {"/etc/passwd": [3, "ab"]}},
            {"files": {"frames/c/1/0/0/0": [3]}},
            {"frames": [0, 20]},
            {"frames": 3},
            {"shard": 0},
            {"surprise": 1},
        ],
    )
    def test_checksummed_nonsense_is_no_receipt(self, root: Path, changes: dict) -> None:
        path = receipt_path(root / "clips.zarr", 1)
        write_file(path, dump_checksummed({**load_checksummed(path.read_bytes()), **changes, "seal": ""}))
        assert ClipStore(root).unfinished() == [1]
        assert [s for s, what in check_store(ClipStore(root)) if what] == [1]

    def test_equal_receipts_have_equal_bytes(self) -> None:
        values = {"b": "x", "a": 'says "seal": "0"'}
        assert (
            Receipt(1, (0, 5), {}, {}, values).to_json()
            == Receipt(1, (0, 5), {}, {}, dict(sorted(values.items()))).to_json()
        )
        assert load_checksummed(Receipt(1, (0, 5), {}, {}, values).to_json())["quarantined"] == values

    def test_one_of_another_shard_is_no_receipt(self, root: Path) -> None:
        store = root / "clips.zarr"
        shutil.copy(receipt_path(store, 0), receipt_path(store, 1))
        assert read_receipt(store, 1) is None
        assert ClipStore(root).unfinished() == [1]

    @pytest.mark.parametrize("name", ["frames/../../secret", "/etc/passwd"])
    def test_one_that_names_files_elsewhere_is_not_even_read(self, root: Path, name: str) -> None:
        path = receipt_path(root / "clips.zarr", 1)
        write_file(
            path, dump_checksummed({**load_checksummed(path.read_bytes()), "files": {name: [3, "ab"]}, "seal": ""})
        )
        assert read_receipt(root / "clips.zarr", 1) is None


def test_files_of_a_writer_at_work_are_no_strays(root: Path) -> None:
    store = root / "clips.zarr"
    for name in ("frames/c/0/0/0/.0.7-ab.tmp", "_done/.000000.json.7-ab.tmp"):
        (store / name).write_bytes(b"half")
    assert verify_root(root) == []
    assert repair(ClipStore(root)) == []
    assert (store / "frames/c/0/0/0/.0.7-ab.tmp").exists()


def test_a_shard_is_on_the_disk_before_its_receipt_and_the_old_receipt_is_gone_before_its_files(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of the system calls: no power cut leaves a receipt without its data."""
    (path,) = (root / "audio").iterdir()
    cache, steps = Cache(path), []
    calls = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}

    def named(place: Any) -> str:
        found = os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else str(place)
        return os.path.relpath(found, path)

    monkeypatch.setattr(os, "fsync", lambda handle: steps.append(("fsync", named(handle))) or calls["fsync"](handle))
    monkeypatch.setattr(os, "replace", lambda a, b: steps.append(("replace", named(b))) or calls["replace"](a, b))
    monkeypatch.setattr(os, "unlink", lambda p, **_: steps.append(("unlink", named(p))) or calls["unlink"](p))
    arrays = {"features": np.full((cache.shard_range(1)[1] - SHARD, 4), 9, np.float32)}
    commit_shard(cache, 1, arrays, counts={"frames": 1}, quarantined={}, notes={})
    data, receipt = "features/c/1/0", "_done/000001.json"
    written, named_data = steps.index(("replace", data)), steps.index(("replace", receipt))
    assert steps[:2] == [("unlink", receipt), ("fsync", "_done")]
    assert steps[written - 1][0] == "fsync"
    assert is_temporary(Path(steps[written - 1][1]).name)
    assert named_data > written
    assert {("fsync", folder) for folder in ("features/c/1", "features/c", "features")} <= {*steps[written:named_data]}
    assert steps[-2:] == [("replace", receipt), ("fsync", "_done")]
    assert is_temporary(Path(steps[-3][1]).name)
    assert (cache.read("features", SHARD, SHARD + 1) == 9).all()


class TestWriteErrors:
    def test_a_file_system_that_gives_back_other_data(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ClipStore(root).invalidate([1])

        def rot(path: Path, content: bytes) -> None:
            write_file(path, b"\0" + content[1:] if "frames" in path.parts else content)

        monkeypatch.setattr(commit, "write_file", rot)
        with pytest.raises(OSError, match="does not read back"):
            import_clips(NoiseSource(), root, SHARD)
        assert ClipStore(root).unfinished() == [1]

    def test_an_error_of_the_disk_leaves_no_temporary_file(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ClipStore(root).invalidate([1])

        def fail(*_: object) -> None:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("os.replace", fail)
            with pytest.raises(OSError, match="Input/output error"):
                import_clips(NoiseSource(), root, SHARD)
        assert not list(root.rglob("*.tmp"))
        import_clips(NoiseSource(), root, SHARD)
        assert verify_root(root) == []

    def test_a_real_limit_of_the_system(self, root: Path) -> None:
        """Files may have 20,000 bytes: metadata fit, the sound of a shard does not."""
        script = (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
            "from combo_avs.cli import app; from combo_avs.console import run; sys.exit(run(app, sys.argv[1:]))"
        )
        arguments = ["import", "synthetic", root / "new", "--flavour", "ms3", "--clips", "8", "--size", "32"]
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert (done.returncode, "File too large" in done.stderr) == (5, True), done.stderr
        assert ClipStore(root / "new").unfinished() == [0]
        assert not list((root / "new").rglob("*.tmp"))

    def test_a_root_that_cannot_be_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        with pytest.raises(BadInput, match="no cache root can be there"):
            import_clips(NoiseSource(), tmp_path / "file", SHARD)


class TestHostileClipTables:
    """A store that somebody else made may hold any table, with the right checksums."""

    @pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\nb", "a\x00b", "a\x7f", "ü" * 101, "\u2028"])
    def test_ids_that_are_no_names_are_refused(self, name: str) -> None:
        clip = dataclasses.replace(NoiseSource().clips[0], id=name)
        with pytest.raises(BadInput, match="ids have 1 to 200 bytes"):
            ClipTable.of([clip])

    def test_tables_that_no_import_writes_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clips = NoiseSource().clips
        with monkeypatch.context() as patch:
            patch.setattr(clip_table, "_problems", lambda _: [])
            (tmp_path / "twice.parquet").write_bytes(ClipTable.of([clips[0], clips[0]]).to_bytes())
            (tmp_path / "order.parquet").write_bytes(ClipTable.of([clips[0], clips[1]]).to_bytes())
        for name, message in (("twice", "more than once"), ("order", "longer clips must come first")):
            with pytest.raises(BadInput, match=message):
                ClipTable.read(tmp_path / f"{name}.parquet")

    def test_a_checksummed_store_with_an_impossible_shape_is_refused(self, root: Path) -> None:
        path = root / "clips.zarr" / "zarr.json"
        document = json.loads(path.read_bytes())
        document["attributes"]["shard_frames"] = 7
        document["attributes"]["checks"]["seal"] = ""
        path.write_bytes(dump_checksummed(document))
        with pytest.raises(BadInput, match="in shards of 7"):
            ClipStore(root)
