"""What a dry run says about cost: by value, and from what."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import EXACT, FakeConfig, FakeGenerator, NoiseSource

from combo_avs.data.store.store import ClipStore
from combo_avs.model.builders import Entry
from combo_avs.model.foundation import GENERATORS
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.precompute import estimate as estimate_module
from combo_avs.pipeline.precompute.driver import plan_caches
from combo_avs.pipeline.precompute.estimate import Estimate, estimate


def costs(seconds: float, size: float, frames: int = 1000) -> Estimate:
    plan: Any = SimpleNamespace(path=Path("root/proposals/fake-1.zarr"))
    return Estimate(plan, frames, 15, seconds / frames, size / frames, "a GPU")


@pytest.mark.parametrize(
    ("seconds", "size", "words"),
    [
        (59.4, 999, "about 999 B and 59 s"),
        (60, 1500, "about 1.5 KB and 1 min 0 s"),
        (3599.6, 2e6, "about 2 MB and 1 h 0 min"),
        (90_061, 3.25e9, "about 3.25 GB and 25 h 1 min"),
        (1, 4e12, "about 4 TB and 1 s"),
    ],
)
def test_costs_in_words(seconds: float, size: float, words: str) -> None:
    found = costs(seconds, size)
    assert (found.seconds, found.bytes) == pytest.approx((seconds, size))
    assert str(found).startswith(f"fake-1: 1000 frames, {words} on one worker (")
    assert str(found).endswith("s per frame on a GPU, 15 frames timed)")


def test_nothing_to_do() -> None:
    plan: Any = SimpleNamespace(path=Path("root/proposals/fake-1.zarr"))
    assert str(Estimate(plan, 0)) == "fake-1: nothing to do"


def test_a_clip_warms_up_and_others_from_the_whole_work_are_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(GENERATORS, "fake", Entry(FakeConfig, FakeGenerator, EXACT))
    import_clips(NoiseSource(clips=12), tmp_path, shard_frames=10)  # nine shards: six of one clip, three of two
    clips = ClipStore(tmp_path)
    now, ran, run_clips = iter((100.0, 107.0)), [], estimate_module.run_clips
    monkeypatch.setattr(
        estimate_module, "run_clips", lambda *a: ran.append([first for first, _ in a[1]]) or run_clips(*a)
    )
    monkeypatch.setattr(estimate_module, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    monkeypatch.setattr(estimate_module, "encode_shard", lambda spec, values, frames: b"x" * 3 * len(values))
    found = estimate(plan_caches(tmp_path, PrecomputeConfig(), "fake", None)[0])
    assert ran == [[0], [0, 30, 60]]
    assert (found.frames, found.timed_frames) == (clips.frames, 25) == (90, 25)
    assert found.seconds_per_frame == pytest.approx(7 / 25)
    assert found.bytes_per_frame == pytest.approx(4 * 3)  # four arrays
