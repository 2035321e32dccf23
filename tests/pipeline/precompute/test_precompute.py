"""Stage one: what is in the caches, resuming, Dask, and what happens when a shard or a worker fails."""

import json
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from combo_avs.data.masks import colour_index, fold_masks, unpack_stats
from combo_avs.data.store.locks import lock_store
from combo_avs.data.store.root import cache_path, create_cache, open_cache
from combo_avs.data.store.store import Cache, ClipStore
from combo_avs.errors import BadInput, ComboError
from combo_avs.model.audio import encoder
from combo_avs.model.foundation import generator
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.precompute import dispatch
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans
from combo_avs.pipeline.precompute.selection import Selection
from combo_avs.pipeline.precompute.worker import run_shard


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a store that equal work must make equal."""
    kept = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "_lock" and p.parent.name != "_log")
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


class TestContents:
    def test_proposals_are_what_the_generator_gives(self, prepared: Path) -> None:
        clips = ClipStore(prepared)
        cache = open_cache(clips, "proposals", "felzenszwalb")
        frames = clips.read("frames", 7, 12)
        found = generator("felzenszwalb", {})(torch.from_numpy(frames))
        for t, proposals in enumerate(found):
            np.testing.assert_array_equal(cache.read_masks(7 + t, 8 + t)[0], proposals.masks.numpy())
            stats = unpack_stats(cache.read_bytes("mask_stats", 7 + t, 8 + t)[0])
            np.testing.assert_array_equal(stats["area"], proposals.areas.numpy())
            expected = colour_index(fold_masks(proposals.masks.numpy()))
            np.testing.assert_array_equal(cache.read("maskige", 7 + t, 8 + t)[0], expected)
            assert cache.read("mask_count", 7 + t, 8 + t)[0] == len(proposals.masks)

    def test_features_are_what_the_encoder_gives(self, prepared: Path) -> None:
        clips = ClipStore(prepared)
        cache = open_cache(clips, "audio", "logmel")
        log_mel, waveform = (torch.from_numpy(clips.read(n, 0, 10)).float() for n in ("log_mel", "waveform"))
        expected = encoder("logmel", {})(log_mel, waveform / 32768).numpy()
        np.testing.assert_array_equal(cache.read("features", 0, 10), expected)

    def test_provenance(self, prepared: Path) -> None:
        clips = ClipStore(prepared)
        cache = open_cache(clips, "proposals", "felzenszwalb")
        assert cache.clips_fingerprint == clips.fingerprint()
        assert cache.provenance.parameters["scales"] == [200.0, 800.0]
        assert cache.path == cache_path(clips, cache.attributes)

    def test_the_generator_none_gives_plain_maskiges(self, root: Path) -> None:
        run_plans(plan_caches(root, PrecomputeConfig(), "none", None), 0, None)
        cache = open_cache(ClipStore(root), "proposals", "none")
        assert (cache.read("maskige", 0, 20) == (120, 120, 120)).all()
        assert not cache.read("mask_count", 0, 20).any()


@pytest.mark.slow
def test_vggish_from_a_weights_file(root: Path, tmp_path: Path) -> None:
    from combo_avs.model.audio.vggish import VGGish

    torch.manual_seed(0)
    torch.save(VGGish().state_dict(), tmp_path / "vggish.pth")
    config = PrecomputeConfig(encoder={"weights": str(tmp_path / "vggish.pth")})
    plans = plan_caches(root, config, None, "vggish")
    run_plans(plans, workers=1, scheduler=None)
    clips, cache = ClipStore(root), Cache(plans[0].path)
    assert len(cache.provenance.weights_sha256) == 64
    assert str(tmp_path) not in str(cache.attributes)
    log_mel = torch.from_numpy(clips.read("log_mel", 0, 10))
    expected = encoder("vggish", config.encoder)(log_mel, torch.zeros(10, 16_000)).numpy()
    np.testing.assert_allclose(cache.read("features", 0, 10), expected, atol=1e-5)
    assert len(cache.control_features["silence"]) == 10


class TestResume:
    def test_nothing_is_left_to_do(self, prepared: Path) -> None:
        assert [p.todo for p in plan_caches(prepared, PrecomputeConfig(), "felzenszwalb", "logmel")] == [(), ()]

    def test_only_what_is_missing_is_done_and_the_end_is_equal(self, root: Path) -> None:
        cache = open_cache(ClipStore(root), "proposals", "felzenszwalb")
        before = contents(cache.path)
        (cache.path / "maskige" / "c" / "1" / "0" / "0" / "0").unlink()
        plans = plan_caches(root, PrecomputeConfig(), "felzenszwalb", None)
        assert plans[0].todo == (1,)
        run_plans(plans, 0, None)
        assert contents(cache.path) == before

    def test_a_failing_shard_does_not_stop_the_others(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails_on_1(job, shard, again):
            if shard == 1:
                raise RuntimeError("the device is on fire")
            return run_shard(job, shard, again=again)

        monkeypatch.setattr(dispatch, "run_shard", fails_on_1)
        plans = plan_caches(root, PrecomputeConfig(), "none", None)
        with pytest.raises(ComboError, match=r"(?s)1 of 3 shards failed.*shard 1: the device is on fire"):
            run_plans(plans, 0, None)
        assert plan_caches(root, PrecomputeConfig(), "none", None)[0].todo == (1,)

    def test_split_does_only_its_shards(self, root: Path) -> None:
        clips = ClipStore(root)
        plan = plan_caches(root, PrecomputeConfig(), "none", None, Selection(split="val"))[0]
        assert set(plan.todo) == set(clips.shards_of("val"))
        assert len(plan.todo) < clips.num_shards


class TestDask:
    def test_two_workers_give_the_same_bytes_as_none(self, root: Path, prepared: Path) -> None:
        name = open_cache(ClipStore(root), "proposals", "felzenszwalb").path.name
        (root / "proposals" / name).rename(root / "gone")
        run_plans(plan_caches(root, PrecomputeConfig(), "felzenszwalb", None), workers=2, scheduler=None)
        assert contents(root / "proposals" / name) == contents(prepared / "proposals" / name)

    def test_a_running_scheduler(self, root: Path) -> None:
        from distributed import LocalCluster

        with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
            plans = plan_caches(root, PrecomputeConfig(), "none", None)
            run_plans(plans, workers=1, scheduler=cluster.scheduler_address)
        assert Cache(plans[0].path).unfinished() == []

    def test_a_result_is_small(self, prepared: Path) -> None:
        job = plan_caches(prepared, PrecomputeConfig(), "felzenszwalb", None)[0].job
        assert len(json.dumps(run_shard(job, 0))) < 1000

    @pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense"])
    def test_no_scheduler_there(self, root: Path, address: str) -> None:
        plans = plan_caches(root, PrecomputeConfig(), "none", None)
        with pytest.raises(BadInput, match="no Dask scheduler"):
            run_plans(plans, workers=1, scheduler=address)
        assert not Path(plans[0].path).exists()

    def test_a_server_that_is_no_scheduler(self, root: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:

            def answer() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

            threading.Thread(target=answer, daemon=True).start()
            address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
            with pytest.raises(BadInput, match="no Dask scheduler"):
                run_plans(plan_caches(root, PrecomputeConfig(), "none", None), scheduler=address)


class TestBadInput:
    def test_unknown_names_say_what_there_is(self, prepared: Path) -> None:
        with pytest.raises(BadInput, match="felzenszwalb"):
            plan_caches(prepared, PrecomputeConfig(), "sam-vit-x", None)
        with pytest.raises(BadInput, match="vggish"):
            plan_caches(prepared, PrecomputeConfig(), None, "wav2vec")

    def test_wrong_parameters_name_the_key(self, prepared: Path) -> None:
        with pytest.raises(BadInput, match="scalez"):
            plan_caches(prepared, PrecomputeConfig(generator={"scalez": [1]}), "felzenszwalb", None)

    def test_missing_weights(self, prepared: Path, tmp_path: Path) -> None:
        gone = {"weights": str(tmp_path / "vggish.pth")}
        with pytest.raises(BadInput, match=r"vggish\.pth"):
            plan_caches(prepared, PrecomputeConfig(encoder=gone), None, "vggish")

    def test_unfinished_clips(self, root: Path) -> None:
        (root / "clips.zarr" / "_done" / "000001.json").unlink()
        with pytest.raises(BadInput, match="combo import"):
            plan_caches(root, PrecomputeConfig(), "none", None)

    def test_nothing_named(self, prepared: Path) -> None:
        with pytest.raises(BadInput, match="--proposals"):
            plan_caches(prepared, PrecomputeConfig(), None, None)

    def test_a_second_run_on_the_same_cache_is_refused(self, root: Path) -> None:
        plans = plan_caches(root, PrecomputeConfig(), "none", None)
        create_cache(ClipStore(root), plans[0].attributes)
        with lock_store(plans[0].path), pytest.raises(BadInput, match="writing to it"):
            run_plans(plans, 0, None)
