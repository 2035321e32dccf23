"""The contract of every location: what is written is read back, a kill at any step leaves a store that resumes."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import NoiseSource
from store_locations import KINDS, contents, count_steps, full_at, killed_at, open_place

from combo_avs.data.augment import AugmentConfig
from combo_avs.data.clip import Clip
from combo_avs.data.dataset import ClipDataset, prefetch, train_batch
from combo_avs.data.store.attributes import Provenance
from combo_avs.data.store.commit import commit_shard
from combo_avs.data.store.location import Location, UrlPath, location
from combo_avs.data.store.locks import lock_store
from combo_avs.data.store.receipts import log_path, write_log
from combo_avs.data.store.root import (
    audio_attributes,
    create_cache,
    create_proposals,
    list_caches,
    open_cache,
)
from combo_avs.data.store.store import Cache, ClipStore
from combo_avs.data.store.verify import repair
from combo_avs.errors import BadInput, ComboError
from combo_avs.pipeline.caches.inspect import verify_root
from combo_avs.pipeline.imports.clips import import_clips

SHARD = 20
PROVENANCE = Provenance("fake", "1", {"x": 1})


def do_import(root: str | Location, source: NoiseSource | None = None) -> NoiseSource:
    source = source or NoiseSource()
    import_clips(source, root, SHARD)
    return source


def cache_rows(cache: Cache, shard: int) -> dict[str, np.ndarray]:
    """Arrays of one shard of a cache, different for every frame."""
    lo, hi = cache.shard_range(shard)
    rows = {}
    for name, spec in cache.specs.items():
        rows[name] = spec.empty(hi - lo)
        for k, frame in enumerate(range(lo, hi)):
            rows[name][k] = bytes([frame]) * (frame + 1) if spec.dtype == "bytes" else frame
    return rows


def fill(cache: Cache, shards: list[int] | None = None) -> Cache:
    for shard in range(cache.num_shards) if shards is None else shards:
        write_log(log_path(cache.path, shard), {"seconds_per_frame": 0.5})
        commit_shard(cache, shard, cache_rows(cache, shard), counts={}, quarantined={}, notes={})
    return cache


def with_caches(root: str) -> ClipStore:
    do_import(root)
    clips = ClipStore(root)
    fill(create_proposals(clips, PROVENANCE))
    fill(create_cache(clips, audio_attributes(clips, PROVENANCE, 8, {})))
    return clips


@pytest.fixture(params=KINDS)
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return open_place(request.param, tmp_path)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an uninterrupted import into a folder."""
    folder = tmp_path_factory.mktemp("reference")
    do_import(folder)
    return contents(folder)


class TestLocationContract:
    def test_an_import_gives_the_same_bytes_everywhere(self, root: str, reference: dict[str, bytes]) -> None:
        do_import(root)
        assert contents(root) == reference
        assert verify_root(root) == []

    def test_what_is_read_is_what_was_imported(self, root: str) -> None:
        source = do_import(root)
        store = ClipStore(root)
        for row, clip in enumerate(store.table):
            truth = source.read(clip)
            np.testing.assert_array_equal(store.read("frames", *store.span(row)), truth.frames)
        whole = store.read("frames", 0, store.frames)
        np.testing.assert_array_equal(store.read("frames", 15, 45), whole[15:45])

    @pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
    def test_a_kill_at_any_step_is_made_good(
        self, root: str, reference: dict[str, bytes], tmp_path: Path, part: float
    ) -> None:
        kind = "folder" if isinstance(location(root), Path) else "memory"
        steps = count_steps(lambda: do_import(open_place(kind, tmp_path)))
        with killed_at(int(part * steps)):
            do_import(root)
            pytest.fail("it was to be killed")
        do_import(root)
        assert contents(root) == reference
        assert verify_root(root) == []

    def test_a_full_location_ends_with_the_cause_and_goes_on_later(
        self, root: str, reference: dict[str, bytes]
    ) -> None:
        do_import(root)
        store = ClipStore(root)
        store.invalidate([0, 1, 2])
        with full_at(4), pytest.raises(OSError, match="No space left"):
            do_import(root)
        assert len(ClipStore(root).unfinished()) == 3
        do_import(root)
        assert contents(root) == reference

    def test_done_shards_are_not_read_again(self, root: str) -> None:
        do_import(root)
        assert do_import(root).reads == []
        ClipStore(root).invalidate([1])
        again = do_import(root)
        assert {c for _, clip in ClipStore(root).clips_in(1) for c in [clip.id]} == set(again.reads)

    @pytest.mark.parametrize(
        ("name", "harm"),
        [
            ("frames/c/1/0/0/0", "flip"),
            ("labels/c/1/0/0", "cut"),
            ("log_mel/c/1/0/0", "delete"),
            ("_done/000001.json", "flip"),
        ],
    )
    def test_damage_is_found_and_never_read_as_data(
        self, root: str, reference: dict[str, bytes], name: str, harm: str
    ) -> None:
        do_import(root)
        hurt(location(root) / "clips.zarr" / name, harm)
        assert [p["shard"] for p in verify_root(root)] == [1]
        array = "frames" if name.startswith("_done") else name.split("/")[0]
        with pytest.raises(ComboError, match="combo import"):
            ClipStore(root).read(array, 20, 40)
        assert repair(ClipStore(root)) == [1]
        do_import(root)
        assert contents(root) == reference

    def test_a_file_that_vanishes_later_is_not_taken_for_fill_value(self, root: str) -> None:
        store = ClipStore(root) if do_import(root) else None
        store.read("frames", 0, 10)
        (store.path / "frames/c/0/0/0/0").unlink()
        if isinstance(store.path, UrlPath):
            with pytest.raises(ComboError, match="is damaged"):
                store.read("frames", 10, 20)
        with pytest.raises(ComboError, match="is not finished"):
            ClipStore(root).read("frames", 10, 20)

    def test_shards_of_nothing_but_fill_value_are_data(self, root: str) -> None:
        class Black(NoiseSource):
            def read(self, clip: Clip):
                return dataclasses.replace(super().read(clip), frames=np.zeros((clip.num_frames, 16, 16, 3), np.uint8))

        do_import(root, Black())
        store = ClipStore(root)
        assert verify_root(root) == []
        assert not store.read("frames", 0, store.frames).any()

    def test_training_reads_clips_with_their_caches(self, root: str) -> None:
        clips = with_caches(root)
        assert [c.kind for c in list_caches(root)] == ["proposals", "audio"]
        caches = open_cache(clips, "proposals", "fake"), open_cache(clips, "audio", "fake")
        dataset = ClipDataset(ClipStore(root), *caches, split="train")
        for index in range(len(dataset)):
            first, end = clips.span(int(dataset.rows[index]))
            sample = dataset[index]
            assert (sample.maskiges[:, 0, 0, 0] == range(first, end)).all()
            assert (sample.features[:, 0] == range(first, end)).all()
        batches = prefetch(lambda step: train_batch(dataset, 2, AugmentConfig(), 0, step), range(2))
        assert [len(b.clip_ids) for b in batches] == [2, 2]
        assert caches[0].read_bytes("masks", 3, 5) == [bytes([3]) * 4, bytes([4]) * 5]

    def test_a_second_writer_is_refused_and_told_who_writes(self, root: str) -> None:
        do_import(root)
        with lock_store(ClipStore(root).path), pytest.raises(BadInput, match=r"process \d+ on \S+ is writing to it"):
            do_import(root)
        do_import(root)

    def test_writers_share_a_store_by_shards(self, root: str) -> None:
        do_import(root)
        cache = create_proposals(ClipStore(root), PROVENANCE)
        with lock_store(cache.path, {0, 2}):
            with lock_store(cache.path, {1}):
                fill(cache, [1])
            with pytest.raises(BadInput, match="2 shards of it"), lock_store(cache.path, {1, 2}):
                pass
            with pytest.raises(BadInput, match="is writing to"), lock_store(cache.path):
                pass
            fill(cache, [0, 2])
        assert cache.unfinished() == []

    def test_other_clips_are_refused(self, root: str) -> None:
        do_import(root)
        with pytest.raises(BadInput, match="holds other clips"):
            do_import(root, NoiseSource(seed=1))


def hurt(path: Location, harm: str) -> None:
    data = bytearray(path.read_bytes())
    if harm == "delete":
        path.unlink()
        return
    if harm == "flip":
        data[len(data) // 3] ^= 4
    path.write_bytes(bytes(data[:-1] if harm == "cut" else data))


class TestNames:
    def test_a_url_survives_being_taken_for_a_path(self) -> None:
        assert location(Path("memory://a/b")) == location("memory://a/b/") == UrlPath("memory://a/b")
        assert location("file:///tmp/x") == location("/tmp/x") == Path("/tmp/x")

    @pytest.mark.parametrize("name", ["simplecache::s3://a/b", "nosuch://a/b"])
    def test_urls_that_cannot_hold_a_store(self, name: str) -> None:
        with pytest.raises(BadInput, match="cache root"):
            location(name)

    def test_a_missing_package_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        location("memory://a")  # fsspec is there
        monkeypatch.setitem(sys.modules, "s3fs", None)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
        with pytest.raises(BadInput, match=r"pip install 'combo-avs\[s3\]'"):
            location("s3://a/b")

    def test_a_bucket_that_does_not_exist(self, tmp_path: Path) -> None:
        open_place("s3", tmp_path)
        with pytest.raises(BadInput, match="no clips"):
            ClipStore("s3://no-such-bucket/root")
        with pytest.raises(BadInput, match=r"cannot reach s3://no-such-bucket.*bucket does not exist"):
            do_import("s3://no-such-bucket/root")

    def test_no_credentials(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root = open_place("s3", tmp_path)
        from s3fs import S3FileSystem

        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("HOME", str(tmp_path))
        S3FileSystem.clear_instance_cache()
        with pytest.raises(BadInput, match="credentials"):
            ClipStore(root)
        S3FileSystem.clear_instance_cache()
