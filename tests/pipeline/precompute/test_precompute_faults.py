"""Stage one when frames, clips or the device give trouble, with a generator that fails to order."""

import errno
import json
import os
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import EXACT, FakeConfig, FakeGenerator, NoiseSource, frame_name
from store_locations import full_at

from combo_avs.data.dataset import ClipDataset
from combo_avs.data.store.locks import lock_store
from combo_avs.data.store.root import open_cache
from combo_avs.data.store.store import Cache, ClipStore
from combo_avs.data.store.verify import check_store
from combo_avs.errors import FAILED, BadInput, ComboError
from combo_avs.model.audio.logmel import LogMelEncoder
from combo_avs.model.builders import Entry
from combo_avs.model.foundation import GENERATORS
from combo_avs.model.foundation.interface import Proposals
from combo_avs.pipeline.caches.inspect import root_info, show_info
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.precompute import dispatch
from combo_avs.pipeline.precompute.driver import Plan, plan_caches, run_plans
from combo_avs.pipeline.precompute.estimate import estimate
from combo_avs.pipeline.precompute.selection import Selection
from combo_avs.pipeline.precompute.worker import CacheJob, OtherVersion, run_shard


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GENERATORS, "fake", Entry(FakeConfig, FakeGenerator, EXACT))


@pytest.fixture
def clips(tmp_path: Path) -> ClipStore:
    """Two clips of 10 frames in shard 0, two of 5 frames in shard 1."""
    import_clips(NoiseSource(clips=4), tmp_path / "root", shard_frames=20)
    return ClipStore(tmp_path / "root")


def name_of(clips: ClipStore, frame: int) -> int:
    return frame_name(clips.read("frames", frame, frame + 1)[0])


def plan(clips: ClipStore, settings: dict[str, Any] | None = None, **parameters: Any) -> Plan:
    config = PrecomputeConfig(generator=parameters, **(settings or {}))
    return plan_caches(clips.path.parent, config, "fake", None)[0]


def run(clips: ClipStore, settings: dict[str, Any] | None = None, **parameters: Any) -> tuple[Cache, dict[str, str]]:
    made = plan(clips, settings, **parameters)
    quarantined = run_plans([made], workers=0)
    return Cache(made.path), quarantined


def log_of(cache: Cache, shard: int) -> dict[str, Any]:
    return json.loads((cache.path / "_log" / f"{shard:06d}.json").read_text())


def contents(cache: Cache) -> dict[str, bytes]:
    files = (p for p in cache.path.rglob("*") if p.is_file() and not p.name.startswith("_lock"))
    return {str(p.relative_to(cache.path)): p.read_bytes() for p in files if p.parent.name != "_log"}


class TestQuarantine:
    def test_one_frame_costs_its_clip_and_nothing_else(self, clips: ClipStore) -> None:
        whole = {name: clips_rows(run(clips)[0], name) for name in ("maskige", "mask_count")}
        clear(clips)
        cache, quarantined = run(clips, raises_on=[name_of(clips, 13)])
        bad = clips.table[1].id
        assert list(quarantined) == [bad]
        assert quarantined[bad].splitlines()[-1].startswith("ValueError: cannot look at frame")
        assert quarantined[bad].endswith("(frame 3 of the clip)")
        for name, fill in (("maskige", 0), ("mask_count", 65535)):
            rows = clips_rows(cache, name)
            assert (rows[10:20] == fill).all()
            np.testing.assert_array_equal(np.delete(rows, slice(10, 20), 0), np.delete(whole[name], slice(10, 20), 0))
        assert len(cache.read_masks(13, 14)[0]) == 0

    def test_the_whole_traceback_is_in_the_log_and_no_folder_in_the_receipt(self, clips: ClipStore) -> None:
        cache, quarantined = run(clips, raises_on=[name_of(clips, 0)])
        (clip,) = quarantined
        assert str(Path(__file__).parent) not in quarantined[clip]
        assert 'File "fakes.py"' in quarantined[clip]
        assert "Traceback" in log_of(cache, 0)["tracebacks"][clip]

    def test_training_leaves_it_out(self, clips: ClipStore) -> None:
        proposals, _ = run(clips, raises_on=[name_of(clips, 13)])
        plans = plan_caches(clips.path.parent, PrecomputeConfig(), None, "logmel")
        run_plans(plans, workers=0)
        bad = clips.table[1]
        dataset = ClipDataset(clips, proposals, Cache(plans[0].path), bad.split)
        assert bad.id not in {dataset.clip(i).id for i in range(len(dataset))}
        assert len(dataset) == len(clips.table.rows(bad.split)) - 1

    def test_it_is_not_tried_again_until_asked_for(self, clips: ClipStore) -> None:
        run(clips, raises_on=[name_of(clips, 13)])
        again = plan(clips)
        assert again.todo == ()
        config = PrecomputeConfig()
        (retry,) = plan_caches(clips.path.parent, config, "fake", None, Selection(retry_quarantined=True))
        assert retry.todo == retry.again == (0,)
        assert run_plans([retry], workers=0) == {}
        tried_again = contents(Cache(retry.path))
        clear(clips)
        assert contents(run(clips)[0]) == tried_again

    def test_clips_that_were_at_import_are_not_shown_to_the_model(self, tmp_path: Path) -> None:
        import_clips(NoiseSource(clips=4, broken=("clip-1",)), tmp_path, shard_frames=20)
        clips = ClipStore(tmp_path)
        row = next(r for r in range(4) if clips.table[r].id == "clip-1")
        cache, quarantined = run(clips, raises_on=[name_of(clips, clips.span(row)[0])])
        assert quarantined == {"clip-1": "quarantined at import"}
        assert (clips_rows(cache, "mask_count")[slice(*clips.span(row))] == 65535).all()
        (retry,) = plan_caches(tmp_path, PrecomputeConfig(), "fake", None, Selection(retry_quarantined=True))
        assert retry.todo == ()

    def test_a_model_that_fails_on_every_clip_is_not_the_fault_of_the_clips(self, clips: ClipStore) -> None:
        with pytest.raises(ComboError, match=r"(?s)1 of 2 shards failed.*on every clip of shard 1.*cannot look"):
            run(clips, raises_on=[name_of(clips, frame) for frame in (20, 25)])
        left = plan(clips)
        assert left.todo == (1,)
        reason = json.loads((left.path / "_log" / "000001.failed.json").read_text())["reason"]
        assert "cannot look at frame" in reason

    def test_sound_that_gives_nan_costs_its_clip(self, clips: ClipStore, monkeypatch: pytest.MonkeyPatch) -> None:
        honest, bad = LogMelEncoder.__call__, clips.read("log_mel", 10, 11)[0]

        def deaf(self, log_mel, waveform):
            features = honest(self, log_mel, waveform)
            features[[np.array_equal(x.numpy(), bad) for x in log_mel]] = float("nan")
            return features

        monkeypatch.setattr(LogMelEncoder, "__call__", deaf)
        quarantined = run_plans(plan_caches(clips.path.parent, PrecomputeConfig(), None, "logmel"), workers=0)
        assert quarantined == {clips.table[1].id: quarantined[clips.table[1].id]}
        assert "NaN" in quarantined[clips.table[1].id]


def clips_rows(cache: Cache, name: str) -> np.ndarray:
    return cache.read(name, 0, cache.frames)


def clear(clips: ClipStore) -> None:
    """Away with the proposals, so that the same cache is made anew."""
    shutil.rmtree(clips.path.parent / "proposals")


class TestDisk:
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
    def test_no_room_ends_the_run_at_once_with_the_cause(
        self, clips: ClipStore, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        tried: list[int] = []

        def full(job: CacheJob, shard: int, **_: Any) -> None:
            tried.append(shard)
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(dispatch, "run_shard", full)
            with pytest.raises(ComboError, match=os.strerror(number)) as found:
                run(clips)
        assert found.value.exit_code == FAILED
        assert tried == [0]
        assert run(clips)[0].unfinished() == []

    def test_a_full_disk_leaves_no_receipt_without_data(self, clips: ClipStore) -> None:
        made = plan(clips)
        run_plans([made], workers=0)
        whole = contents(Cache(made.path))
        clear(clips)
        with full_at(30), pytest.raises(ComboError, match="No space left"):
            run(clips)
        assert plan(clips).todo
        assert all(damage is None for shard, damage in check_store(Cache(made.path)) if shard not in plan(clips).todo)
        assert contents(run(clips)[0]) == whole


class TestDevice:
    def test_out_of_memory_means_smaller_batches_and_the_same_bytes(self, clips: ClipStore) -> None:
        whole = contents(run(clips)[0])
        clear(clips)
        cache, quarantined = run(clips, fits=3)
        assert (contents(cache), quarantined) == (whole, {})
        log = log_of(cache, 0)
        assert log["batch_frames"] == 2
        assert log["notes"] == [
            "out of memory with 8 frames per call, continued with 4",
            "out of memory with 4 frames per call, continued with 2",
        ]

    def test_what_a_generator_warns_of_is_noted_once(self, clips: ClipStore, monkeypatch: pytest.MonkeyPatch) -> None:
        look = FakeGenerator.__call__

        def look_and_warn(self: FakeGenerator, frames: torch.Tensor) -> list[Proposals]:
            warnings.warn("out of memory; 2 clicks per batch", stacklevel=1)
            return look(self, frames)

        monkeypatch.setattr(FakeGenerator, "__call__", look_and_warn)
        assert log_of(run(clips)[0], 0)["notes"] == ["out of memory; 2 clicks per batch"]

    def test_no_memory_for_one_frame_fails_the_shard(self, clips: ClipStore) -> None:
        with pytest.raises(ComboError, match="2 of 2 shards failed"):
            run(clips, fits=0)
        assert plan(clips).todo == (0, 1)

    def test_a_lost_device_ends_the_run(self, clips: ClipStore) -> None:
        with pytest.raises(ComboError, match="the device failed"):
            run(clips, loses_device_on=[name_of(clips, 13)])
        assert plan(clips).todo == (0, 1)


class TestLog:
    def test_says_how_fast_and_on_what(self, clips: ClipStore) -> None:
        log = log_of(run(clips)[0], 0)
        assert log["seconds_per_frame"] > 0
        assert 0 <= log["waiting_share"] <= 1
        assert log["device"]
        assert set(log["versions"]) >= {"combo-avs", "torch", "python"}

    def test_approximate_masks_are_compared_with_exact_ones(self, clips: ClipStore) -> None:
        cache, _ = run(clips, precision="bf16")
        found = json.loads((cache.path / "_log" / "agreement.json").read_text())
        assert found["exact"]["precision"] == "fp32"
        assert found["agreement"]["frames"] == 2
        assert 0 < found["agreement"]["best_iou"] < 1
        info = root_info(clips.path.parent)
        assert info["caches"][0]["agreement"] == found["agreement"]
        assert "not exact; against the exact setting: best_iou 0." in show_info(info)
        assert plan(clips, precision="bf16").job.compare_on is None

    def test_exact_ones_are_not(self, clips: ClipStore) -> None:
        assert not (run(clips)[0].path / "_log" / "agreement.json").exists()


class TestOptions:
    def test_too_many_masks_are_counted(self, clips: ClipStore) -> None:
        cache, _ = run(clips, {"max_masks": 2}, masks=5)
        assert (clips_rows(cache, "mask_count") == 2).all()
        assert cache.receipts()[0].counts == {"frames": 20, "masks": 40, "dropped_masks": 60}
        dropped = sum(r.counts["dropped_masks"] for r in cache.receipts().values())
        assert f"{dropped} masks beyond max_masks were left out" in show_info(root_info(clips.path.parent))

    def test_temporal_colours_make_another_cache(self, clips: ClipStore) -> None:
        one, other = plan(clips), plan(clips, {"temporal": True})
        assert one.path != other.path
        assert run_plans([other], workers=0) == {}

    def test_untrained_is_in_the_name(self, clips: ClipStore) -> None:
        (made,) = plan_caches(clips.path.parent, PrecomputeConfig(), "fake", None, untrained=True)
        assert made.path.name.startswith("untrained-fake-")
        assert run_plans([made], workers=0) == {}
        assert open_cache(clips, "proposals", "untrained-fake").unfinished() == []

    def test_a_dry_run_reckons_and_writes_nothing(self, clips: ClipStore) -> None:
        made = plan(clips)
        found = estimate(made)
        assert (found.frames, found.timed_frames) == (clips.frames, 15)
        assert not Path(made.path).exists()
        run_plans([made], workers=0)
        written = sum(file[0] for r in Cache(made.path).receipts().values() for file in r.files.values() if file)
        assert found.bytes == pytest.approx(written, rel=1)  # a shard of 160 frames has less overhead per frame
        assert estimate(plan(clips)).frames == 0

    def test_shares_of_one_cache_at_the_same_time(self, clips: ClipStore) -> None:
        first, second = (
            plan_caches(clips.path.parent, PrecomputeConfig(), "fake", None, Selection(share=(i, 2)))[0] for i in (1, 2)
        )
        run_plans([first], workers=0)
        with lock_store(first.path, {0}):
            run_plans([second], workers=0)
            with pytest.raises(BadInput, match="writing to"):
                run_plans(plan_caches(clips.path.parent, PrecomputeConfig(), "fake", None), workers=0)
        assert Cache(first.path).unfinished() == []


class TestWorkerRefuses:
    def test_another_version_of_the_package(self, clips: ClipStore) -> None:
        made = plan(clips)
        with pytest.raises(OtherVersion, match=r"needs 9\.9"):
            run_shard(replace(made.job, package="9.9"), 0)

    def test_another_model_than_the_cache_was_made_for(self, clips: ClipStore, monkeypatch: pytest.MonkeyPatch) -> None:
        made = plan(clips)
        run_plans([made], workers=0)
        monkeypatch.setattr(FakeGenerator, "version", "2")
        with pytest.raises(ComboError, match="but this worker has"):
            run_shard(made.job, 0, again=True)
