"""The comparison of an approximate generator with its exact form, where frames give trouble."""

import json
from pathlib import Path
from typing import Any

import pytest
from fakes import EXACT, FakeConfig, FakeGenerator, NoiseSource, frame_name

from combo_avs.data.store.store import ClipStore
from combo_avs.model.builders import Entry
from combo_avs.model.foundation import GENERATORS
from combo_avs.pipeline.config.precompute import PrecomputeConfig
from combo_avs.pipeline.imports.clips import import_clips
from combo_avs.pipeline.precompute.driver import plan_caches, run_plans


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GENERATORS, "fake", Entry(FakeConfig, FakeGenerator, EXACT))


def run(root: Path, **parameters: Any) -> tuple[Path, dict[str, str]]:
    """The file with the comparison, and the quarantined clips."""
    (made,) = plan_caches(root, PrecomputeConfig(generator={"precision": "bf16", **parameters}), "fake", None)
    return made.path / "_log" / "agreement.json", run_plans([made], workers=0)


@pytest.mark.parametrize(("clips", "frames"), [(6, 3), (10, 4), (16, 4)])
def test_frames_come_from_the_whole_shard(tmp_path: Path, clips: int, frames: int) -> None:
    """Of 3, 5 and 8 clips in the first shard."""
    import_clips(NoiseSource(clips), tmp_path, shard_frames=clips * 5)
    file, _ = run(tmp_path)
    assert json.loads(file.read_text())["agreement"]["frames"] == frames


def test_a_frame_that_the_model_fails_on_costs_its_clip_only(tmp_path: Path) -> None:
    import_clips(NoiseSource(4), tmp_path, shard_frames=20)
    clips = ClipStore(tmp_path)
    file, quarantined = run(tmp_path, raises_on=[frame_name(clips.read("frames", 0, 1)[0])])
    assert list(quarantined) == [clips.table[0].id]
    assert json.loads(file.read_text())["agreement"]["frames"] == 1


def test_a_shard_without_usable_clips_has_nothing_to_compare(tmp_path: Path) -> None:
    import_clips(NoiseSource(4, broken=("clip-1", "clip-3")), tmp_path, shard_frames=20)  # those of the first shard
    file, quarantined = run(tmp_path)
    assert sorted(quarantined) == ["clip-1", "clip-3"]
    assert not file.exists()


@pytest.mark.parametrize(("declared", "compared"), [({}, None), ({"masks": 3}, None), ({"masks": 2}, 2)])
def test_the_generator_declares_what_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: dict[str, int], compared: int | None
) -> None:
    """Not the names of its parameters: "precision" is bf16 here."""
    monkeypatch.setitem(GENERATORS, "fake", Entry(FakeConfig, FakeGenerator, declared))
    import_clips(NoiseSource(4), tmp_path, shard_frames=20)
    file, _ = run(tmp_path, masks=3)
    assert file.exists() == (compared is not None)
    if compared is not None:
        assert json.loads(file.read_text())["exact"] == {"masks": compared, "precision": "bf16"}
