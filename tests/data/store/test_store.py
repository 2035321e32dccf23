"""The clip store: what was imported is what is read; absence, damage and foreign data are never taken for data."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from fakes import NoiseSource

from combo_avs.base import IGNORE_LABEL
from combo_avs.data.clip import Clip
from combo_avs.data.store.attributes import Provenance
from combo_avs.data.store.clip_table import ClipTable, plan_order
from combo_avs.data.store.locks import lock_store
from combo_avs.data.store.receipts import read_receipt, receipt_path
from combo_avs.data.store.root import create_proposals, open_cache
from combo_avs.data.store.store import ClipStore
from combo_avs.data.store.verify import check_store
from combo_avs.errors import BadInput, ComboError
from combo_avs.pipeline.imports.clips import import_clips

SHARD = 20


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write here; `root` is a copy to play with."""
    folder = tmp_path_factory.mktemp("imported")
    import_clips(NoiseSource(), folder, SHARD)
    return folder


@pytest.fixture
def root(imported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(imported, tmp_path, dirs_exist_ok=True))


def tree_digest(folder: Path) -> dict[str, str]:
    """sha256 of every file that belongs to a store."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "_lock"
    }


def shard_file(store: ClipStore, array: str, shard: int) -> Path:
    return store.path / array / "c" / str(shard) / "/".join("0" * len(store.specs[array].frame_shape))


class TestPlan:
    def test_no_clip_crosses_a_shard_and_splits_are_runs(self) -> None:
        clips = plan_order(NoiseSource(clips=40).clips)
        table = ClipTable.of(clips)
        ends = table.first_frame + table.num_frames - 1
        assert (table.first_frame // SHARD == ends // SHARD).all()
        assert [c.num_frames for c in clips] == sorted((c.num_frames for c in clips), reverse=True)
        splits = [(c.num_frames, c.split) for c in clips]
        assert len(set(splits)) == sum(a != b for a, b in zip(splits, [None, *splits], strict=False))

    def test_order_does_not_depend_on_the_order_of_reading(self) -> None:
        clips = list(NoiseSource(clips=20).clips)
        assert plan_order(clips) == plan_order(reversed(clips))

    def test_duplicate_ids_are_refused_and_named(self) -> None:
        clip = NoiseSource().clips[0]
        with pytest.raises(BadInput, match="clip-0"):
            ClipTable.of(plan_order([clip, clip]))

    def test_table_gives_back_every_column(self, tmp_path: Path) -> None:
        clips = plan_order(NoiseSource(clips=12).clips)
        (tmp_path / "clips.parquet").write_bytes(ClipTable.of(clips).to_bytes())
        table = ClipTable.read(tmp_path / "clips.parquet")
        assert list(table) == clips
        assert table.digest() == ClipTable.of(clips).digest()
        assert [table[int(r)].split for r in table.rows("val")] == ["val"] * 4

    def test_damaged_table_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "clips.parquet").write_bytes(b"PAR1 no PAR1")
        with pytest.raises(BadInput, match="clip table"):
            ClipTable.read(tmp_path / "clips.parquet")

    def test_only_5_and_10_frames(self) -> None:
        clip = NoiseSource().clips[0]
        with pytest.raises(ValueError, match="has 3 frames"):
            dataclasses.replace(clip, frame_times=(0.0, 1.0, 2.0))


class TestReading:
    def test_every_array_of_every_clip(self, root: Path) -> None:
        source, store = NoiseSource(), ClipStore(root)
        assert sorted(c.id for c in store.table) == sorted(c.id for c in source.clips)
        for row, clip in enumerate(store.table):
            span = store.span(row)
            truth = source.read(clip)
            annotated = np.array(clip.frame_annotated)
            labels = store.read("labels", *span)
            np.testing.assert_array_equal(store.read("frames", *span), truth.frames)
            np.testing.assert_array_equal(labels[annotated], truth.labels[annotated])
            assert (labels[~annotated] == IGNORE_LABEL).all()
            np.testing.assert_array_equal(store.read("label_valid", *span), annotated)
            sound = store.read("waveform", *span).reshape(-1) / 32768
            np.testing.assert_allclose(sound, truth.waveform, atol=1 / 32768)
            assert np.isfinite(store.read("log_mel", *span)).all()

    def test_readable_by_plain_zarr(self, root: Path) -> None:
        store = ClipStore(root)
        group = zarr.open_group(store.path, mode="r")
        np.testing.assert_array_equal(group["frames"][:], store.read("frames", 0, store.frames))
        assert group.attrs["classes"] == ["background", "sounding"]

    def test_frames_outside_the_store(self, root: Path) -> None:
        store = ClipStore(root)
        with pytest.raises(IndexError):
            store.read("frames", 0, store.frames + 1)

    def test_last_shard_may_be_short(self, root: Path) -> None:
        store = ClipStore(root)
        assert store.frames == 45
        assert store.shard_range(store.num_shards - 1) == (40, 45)


class TestDamage:
    @pytest.mark.parametrize("array", ["frames", "labels", "log_mel", "waveform", "label_valid", "audio_valid"])
    @pytest.mark.parametrize("harm", ["flip", "cut", "empty", "delete"])
    def test_never_read_as_data_and_found_by_verify(self, root: Path, array: str, harm: str) -> None:
        store = ClipStore(root)
        path = shard_file(store, array, 1)
        data = bytearray(path.read_bytes())
        if harm == "flip":
            data[len(data) // 3] ^= 1
            path.write_bytes(data)
        elif harm == "cut":
            path.write_bytes(data[:-1])
        elif harm == "empty":
            path.write_bytes(b"")
        else:
            path.unlink()
        assert [shard for shard, what in check_store(ClipStore(root)) if what] == [1]
        with pytest.raises(ComboError, match=r"combo import"):
            ClipStore(root).read(array, 20, 40)

    def test_redo_mends_it_byte_for_byte(self, root: Path) -> None:
        before = tree_digest(root / "clips.zarr")
        shard_file(ClipStore(root), "frames", 1).write_bytes(b"")
        import_clips(source := NoiseSource(), root, SHARD)
        assert len(source.reads) < len(source.clips)
        assert tree_digest(root / "clips.zarr") == before

    @pytest.mark.parametrize(
        "receipt",
        [
            *("", "{", "[]", '{"shard": 1}', '{"files": {"frames": 3}}'),
            '{"shard": 1, "frames": [20, 40], "files": {}}',
            '{"shard": 1, "frames": [20, 40], "files": {"../../secret": [3, "ab"]}}',
            '{"shard": 0, "frames": [0, 20], "files": {}}',
        ],
    )
    def test_a_damaged_receipt_means_not_done(self, root: Path, receipt: str) -> None:
        receipt_path(root / "clips.zarr", 1).write_text(receipt)
        assert ClipStore(root).unfinished() == [1]
        assert [shard for shard, what in check_store(ClipStore(root)) if what] == [1]
        with pytest.raises(BadInput, match="1 of 3 shards are missing"):
            ClipStore(root).fingerprint()


class TestShardsOfNothingButFillValue:
    """Zarr writes no file for them: a black video, or clips without labels."""

    class Black(NoiseSource):
        def read(self, clip: Clip):
            return dataclasses.replace(super().read(clip), frames=np.zeros((clip.num_frames, 16, 16, 3), np.uint8))

    def test_are_data(self, tmp_path: Path) -> None:
        import_clips(self.Black(), tmp_path, SHARD)
        store = ClipStore(tmp_path)
        assert store.unfinished() == []
        assert not any(what for _, what in check_store(store))
        assert not store.read("frames", 0, store.frames).any()

    def test_a_file_where_there_should_be_none_is_damage(self, tmp_path: Path) -> None:
        import_clips(self.Black(), tmp_path, SHARD)
        store = ClipStore(tmp_path)
        path = shard_file(store, "frames", 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"stray")
        assert ClipStore(tmp_path).unfinished() == [1]
        assert dict(check_store(store))[1] == "frames/c/1/0/0/0: should not exist"


class TestResume:
    def test_interrupted_import_goes_on_and_ends_equal(self, root: Path, tmp_path: Path) -> None:
        class StopsAfter(NoiseSource):
            def read(self, clip: Clip):
                if len(self.reads) >= 3:
                    raise KeyboardInterrupt
                return super().read(clip)

        other = tmp_path / "other"
        with pytest.raises(KeyboardInterrupt):
            import_clips(StopsAfter(), other, SHARD)
        assert ClipStore(other).unfinished()
        import_clips(NoiseSource(), other, SHARD)
        assert tree_digest(other / "clips.zarr") == tree_digest(root / "clips.zarr")

    def test_done_shards_are_not_read_again(self, root: Path) -> None:
        import_clips(source := NoiseSource(), root, SHARD)
        assert source.reads == []

    def test_other_clips_are_refused(self, root: Path) -> None:
        before = tree_digest(root / "clips.zarr")
        with pytest.raises(BadInput, match=r"holds other clips.*plan_sha256"):
            import_clips(NoiseSource(clips=7), root, SHARD)
        with pytest.raises(BadInput, match="different: parameters"):
            import_clips(NoiseSource(seed=1), root, SHARD)
        assert tree_digest(root / "clips.zarr") == before

    def test_a_second_writer_is_refused(self, root: Path) -> None:
        store = ClipStore(root)
        with lock_store(store.path), pytest.raises(BadInput, match="writing to it"), lock_store(ClipStore(root).path):
            pass
        with lock_store(store.path):
            pass


class TestQuarantine:
    def test_a_broken_clip_does_not_stop_the_others(self, tmp_path: Path) -> None:
        report = import_clips(NoiseSource(broken=("clip-3",)), tmp_path, SHARD)
        assert set(report.quarantined) == {"clip-3"}
        store = ClipStore(tmp_path)
        assert store.unfinished() == []
        row = next(r for r, clip in enumerate(store.table) if clip.id == "clip-3")
        assert row not in store.usable_rows(None)
        assert not store.read("label_valid", *store.span(row)).any()
        assert (store.read("labels", *store.span(row)) == IGNORE_LABEL).all()

    def test_the_reason_is_kept_in_the_receipt(self, tmp_path: Path) -> None:
        import_clips(NoiseSource(broken=("clip-3",)), tmp_path, SHARD)
        receipt = read_receipt(tmp_path / "clips.zarr", 0)
        assert receipt.quarantined == {"clip-3": "clip-3: cannot be read"}


class TestOpening:
    def test_no_store(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="combo import"):
            ClipStore(tmp_path)

    def test_another_schema_version(self, root: Path) -> None:
        path = root / "clips.zarr" / "zarr.json"
        meta = json.loads(path.read_text())
        meta["attributes"]["schema"] = 99
        path.write_text(json.dumps(meta))
        with pytest.raises(BadInput, match="schema version 99"):
            ClipStore(root)

    def test_another_clip_table(self, root: Path) -> None:
        table = ClipTable.of(plan_order(NoiseSource(clips=8).clips))
        (root / "clips.zarr" / "clips.parquet").write_bytes(table.to_bytes())
        with pytest.raises(BadInput, match="clip table"):
            ClipStore(root)

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"attributes": {}}'])
    def test_not_a_store(self, root: Path, content: str) -> None:
        (root / "clips.zarr" / "zarr.json").write_text(content)
        with pytest.raises(BadInput, match="not a store"):
            ClipStore(root)


class TestCaches:
    PROVENANCE = Provenance("fake", "1", {"x": 1})

    def test_the_name_follows_from_everything_that_changes_the_output(self, root: Path, tmp_path: Path) -> None:
        clips = ClipStore(root)
        names = {
            create_proposals(clips, dataclasses.replace(self.PROVENANCE, **c)).name for c in ({}, {"version": "2"})
        }
        names.add(create_proposals(clips, dataclasses.replace(self.PROVENANCE, parameters={"x": 2})).name)
        names.add(create_proposals(clips, dataclasses.replace(self.PROVENANCE, weights_sha256="ab")).name)
        import_clips(NoiseSource(seed=5), tmp_path / "other", SHARD)
        names.add(create_proposals(ClipStore(tmp_path / "other"), self.PROVENANCE).name)
        assert len(names) == 5
        assert create_proposals(clips, self.PROVENANCE).name in names

    def test_short_names_must_be_unambiguous(self, root: Path) -> None:
        clips = ClipStore(root)
        first = create_proposals(clips, self.PROVENANCE)
        assert open_cache(clips, "proposals", "fake").name == first.name
        create_proposals(clips, dataclasses.replace(self.PROVENANCE, version="2"))
        with pytest.raises(BadInput, match="name one of"):
            open_cache(clips, "proposals", "fake")
        assert open_cache(clips, "proposals", first.name).name == first.name

    def test_a_cache_of_other_clips_is_refused(self, root: Path, tmp_path: Path) -> None:
        import_clips(NoiseSource(seed=5), tmp_path / "other", SHARD)
        foreign = create_proposals(ClipStore(tmp_path / "other"), self.PROVENANCE)
        (root / "proposals").mkdir()
        foreign.path.rename(root / "proposals" / foreign.path.name)
        with pytest.raises(BadInput, match="made from other clips"):
            open_cache(ClipStore(root), "proposals", "fake")

    def test_missing(self, root: Path) -> None:
        with pytest.raises(BadInput, match=r"combo precompute .* --audio vggish"):
            open_cache(ClipStore(root), "audio", "vggish")
