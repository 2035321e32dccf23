"""Export, import and merge: nothing is lost, nothing foreign comes in."""

import json
import shutil
from pathlib import Path

import h5py
import pytest

from combo_avs.data.dataset import ClipDataset
from combo_avs.data.store.root import list_caches, open_cache
from combo_avs.data.store.store import ClipStore, Store
from combo_avs.errors import BadInput, ComboError
from combo_avs.pipeline.caches.inspect import verify_root
from combo_avs.pipeline.caches.transfer import export_stores, import_stores, merge_roots


def data_files(root: Path) -> dict[str, bytes]:
    """All files but logs, which need not be equal."""
    kept = (p for p in sorted(root.rglob("*")) if p.is_file() and p.parent.name != "_log" and "_lock" not in p.name)
    return {str(p.relative_to(root)): p.read_bytes() for p in kept}


class TestHdf5:
    def test_there_and_back(self, prepared: Path, tmp_path: Path) -> None:
        report = export_stores(prepared, tmp_path / "all.h5", None, None)
        assert len(report.shards) == 1 + len(list_caches(prepared))
        import_stores(tmp_path / "all.h5", tmp_path / "back")
        assert data_files(tmp_path / "back") == data_files(prepared)
        assert ClipStore(tmp_path / "back").fingerprint() == ClipStore(prepared).fingerprint()
        assert verify_root(tmp_path / "back") == []

    def test_one_split_with_one_cache(self, prepared: Path, tmp_path: Path) -> None:
        export_stores(prepared, tmp_path / "val.h5", "val", ["felzenszwalb"])
        import_stores(tmp_path / "val.h5", tmp_path / "back")
        part, whole = ClipStore(tmp_path / "back"), ClipStore(prepared)
        assert part.unfinished()
        assert part.fingerprint() == whole.fingerprint()
        assert set(part.receipts()) == set(whole.shards_of("val"))
        assert [c.name for c in list_caches(tmp_path / "back")] == [open_cache(whole, "proposals", "felzenszwalb").name]
        cache = open_cache(part, "proposals", "felzenszwalb")
        lo, hi = part.span(int(part.table.rows("val")[0]))
        theirs = open_cache(whole, "proposals", "felzenszwalb")
        assert cache.read_bytes("masks", lo, hi) == theirs.read_bytes("masks", lo, hi)
        with pytest.raises(BadInput, match="does not cover split 'train'"):
            ClipDataset(part, cache, cache, "train")

    def test_parts_make_the_whole(self, prepared: Path, tmp_path: Path) -> None:
        for split in ClipStore(prepared).table.splits():
            export_stores(prepared, tmp_path / f"{split}.h5", split, None)
            import_stores(tmp_path / f"{split}.h5", tmp_path / "back")
        back = data_files(tmp_path / "back")
        back.pop("clips.zarr/part_of.json")
        assert back == data_files(prepared)

    def test_goes_on_after_a_stop(self, prepared: Path, tmp_path: Path) -> None:
        export_stores(prepared, tmp_path / "all.h5", None, None)
        import_stores(tmp_path / "all.h5", tmp_path / "back")
        Store(tmp_path / "back" / "clips.zarr").invalidate([0])
        import_stores(tmp_path / "all.h5", tmp_path / "back")
        assert data_files(tmp_path / "back") == data_files(prepared)

    def test_a_file_that_exists_stays(self, prepared: Path, tmp_path: Path) -> None:
        (tmp_path / "all.h5").write_bytes(b"mine")
        with pytest.raises(BadInput, match="exists"):
            export_stores(prepared, tmp_path / "all.h5", None, None)
        assert (tmp_path / "all.h5").read_bytes() == b"mine"

    def test_files_of_others(self, prepared: Path, tmp_path: Path) -> None:
        (tmp_path / "text.h5").write_text("no HDF5")
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["x"] = [1, 2]
        for name, message in (("text.h5", "not a whole file"), ("other.h5", "none that"), ("gone.h5", "No such file")):
            with pytest.raises((BadInput, FileNotFoundError), match=message):
                import_stores(tmp_path / name, tmp_path / "back")
        assert not (tmp_path / "back").exists()

    @pytest.mark.parametrize("keep", [0.2, 0.6, 0.999])
    def test_truncated(self, prepared: Path, tmp_path: Path, keep: float) -> None:
        export_stores(prepared, tmp_path / "all.h5", None, ["logmel"])
        content = (tmp_path / "all.h5").read_bytes()
        (tmp_path / "cut.h5").write_bytes(content[: int(keep * len(content))])
        with pytest.raises(BadInput, match="not a whole file"):
            import_stores(tmp_path / "cut.h5", tmp_path / "back")

    @pytest.mark.parametrize("name", ["frames", "labels", "waveform"])
    def test_changed_values_are_noticed(self, prepared: Path, tmp_path: Path, name: str) -> None:
        export_stores(prepared, tmp_path / "all.h5", None, ["logmel"])
        with h5py.File(tmp_path / "all.h5", "r+") as file:
            values = file["clips"][name]
            row = values[3]
            row.flat[7] ^= 1
            values[3] = row
        with pytest.raises(ComboError, match="shard 0 does not come back"):
            import_stores(tmp_path / "all.h5", tmp_path / "back")
        assert 0 not in ClipStore(tmp_path / "back").receipts()

    @pytest.mark.parametrize("name", ["..-0123456789ab", "x", "audio"])
    def test_groups_cannot_choose_where_they_go(self, prepared: Path, tmp_path: Path, name: str) -> None:
        export_stores(prepared, tmp_path / "all.h5", None, ["logmel"])
        with h5py.File(tmp_path / "all.h5", "r+") as file:
            kind = file["audio"]
            kind.move(next(iter(kind)), name)
            kind[name].attrs["attributes"] = json.dumps({**json.loads(kind[name].attrs["attributes"]), "kind": "x"})
        with pytest.raises(BadInput, match="does not hold the store"):
            import_stores(tmp_path / "all.h5", tmp_path / "back")
        assert not (tmp_path / "back").exists()

    def test_a_root_with_other_clips(self, prepared: Path, tmp_path: Path) -> None:
        export_stores(prepared, tmp_path / "all.h5", None, ["logmel"])
        other = Path(shutil.copytree(prepared, tmp_path / "other"))
        before = data_files(other)
        with h5py.File(tmp_path / "all.h5", "r+") as file:
            attributes = json.loads(file["clips"].attrs["attributes"])
            file["clips"].attrs["attributes"] = json.dumps({**attributes, "dataset": "another"})
        with pytest.raises(BadInput, match="holds other clips"):
            import_stores(tmp_path / "all.h5", other)
        assert data_files(other) == before


class TestMerge:
    def test_shards_of_two_machines(self, prepared: Path, tmp_path: Path) -> None:
        halves = [Path(shutil.copytree(prepared, tmp_path / name)) for name in ("a", "b")]
        for parity, half in enumerate(halves):
            for store in list_caches(half):
                store.invalidate([s for s in range(store.num_shards) if s % 2 == parity])
        report = merge_roots(halves[0], [halves[1]])
        assert sum(report.shards.values()) > 0
        assert report.conflicts == ()
        assert data_files(halves[0]) == data_files(prepared)

    def test_into_an_empty_root(self, prepared: Path, tmp_path: Path) -> None:
        merge_roots(tmp_path / "new", [prepared])
        assert data_files(tmp_path / "new") == data_files(prepared)

    def test_conflicts_are_reported_and_ours_stays(self, prepared: Path, tmp_path: Path) -> None:
        other = Path(shutil.copytree(prepared, tmp_path / "other"))
        ours = Path(shutil.copytree(prepared, tmp_path / "ours"))
        receipt = next((other / "audio").rglob("_done/000000.json"))
        from combo_avs.data.store.checksummed_json import dump_checksummed, load_checksummed

        values = load_checksummed(receipt.read_bytes())
        receipt.write_bytes(dump_checksummed({**values, "notes": {"a": "different"}, "seal": ""}))
        before = data_files(ours)
        assert ["shard 0" in c for c in merge_roots(ours, [other]).conflicts] == [True]
        assert data_files(ours) == before

    def test_damage_does_not_spread(self, prepared: Path, tmp_path: Path) -> None:
        other = Path(shutil.copytree(prepared, tmp_path / "other"))
        path = next((other / "audio").rglob("features/c/0/0"))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
        with pytest.raises(ComboError, match="is damaged"):
            merge_roots(tmp_path / "new", [other])
        assert all(0 not in c.receipts() for c in list_caches(tmp_path / "new") if c.kind == "audio")

    def test_other_clips_are_refused(self, prepared: Path, tmp_path: Path) -> None:
        from combo_avs.data.sources.synthetic.source import SyntheticSource
        from combo_avs.pipeline.imports.clips import import_clips

        import_clips(SyntheticSource("s4", 10, 1, 64), tmp_path / "other", 10)
        before = data_files(tmp_path / "other")
        with pytest.raises(BadInput, match="different clips"):
            merge_roots(tmp_path / "other", [prepared])
        assert data_files(tmp_path / "other") == before
