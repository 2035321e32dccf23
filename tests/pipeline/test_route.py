"""The whole route, on real AVSBench clips where they are at hand, and the demo's own verdict."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from combo_avs.cli import app
from combo_avs.console import run
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import ComboError
from combo_avs.pipeline.config.tree import presets
from combo_avs.pipeline.demo import _verdict, demo
from combo_avs.pipeline.evaluate.scores import Scores

TINY = ["model.width=32", "model.heads=2", "model.num_queries=4", "model.encoder_layers=1", "loss.num_points=256"]


def combo(*arguments: object) -> None:
    assert run(app, [str(a) for a in arguments]) == 0


@pytest.mark.parametrize(
    ("subset", "clips"), [("s4", {"train": 2, "val": 1, "test": 1}), ("ms3", {"train": 2, "val": 1, "test": 2})]
)
def test_real_clips_from_folder_to_prediction(
    real_clips: Path, tmp_path: Path, subset: str, clips: dict[str, int], capsys: pytest.CaptureFixture
) -> None:
    root, run, source = tmp_path / "root", tmp_path / "run", real_clips / "mini_avsbench"
    combo("import", "avsbench", root, "--source", source, "--subset", subset)
    assert ClipStore(root).table.splits() == clips
    caches = ("--proposals", "felzenszwalb", "--audio", "logmel")
    combo("precompute", root, *caches)
    combo("cache", "verify", root)
    settings = [part for s in [*TINY, "train.clips_per_batch=2"] for part in ("--set", s)]
    combo("train", root, "--preset", "tiny", *caches, "--out", run, "--steps", 2, *settings)
    capsys.readouterr()
    combo("evaluate", run, "--split", "test", "--json")
    assert 1 < json.loads(capsys.readouterr().out)["M_J"] <= 100
    video = next(source.rglob("raw_videos/test/*/*.mp4"))
    combo("predict", run, video, "--out", tmp_path / "predict")
    overlays = list((tmp_path / "predict").rglob("overlay.mp4"))
    assert [o.parent.name for o in overlays] == [video.stem]


def test_real_semantic_clips_of_5_and_10_frames(real_clips: Path, tmp_path: Path) -> None:
    root, run = tmp_path / "root", tmp_path / "run"
    combo("import", "avsbench", root, "--source", real_clips / "mini_avsbench", "--subset", "avss", "--size", 96)
    store = ClipStore(root)
    assert len(store.classes) == 71
    assert sorted(set(store.table.num_frames.tolist())) == [5, 10]
    caches = ("--proposals", "none", "--audio", "logmel")
    combo("precompute", root, *caches, "--workers", 0)
    settings = [part for s in [*TINY, "train.clips_per_batch=3"] for part in ("--set", s)]
    combo("train", root, "--preset", "tiny", *caches, "--out", run, "--steps", 2, *settings)
    combo("evaluate", run, "--split", "test", "--sound", "silent")


@pytest.mark.slow
@pytest.mark.parametrize("preset", presets())
def test_one_step_of_every_preset(prepared: Path, tmp_path: Path, preset: str) -> None:
    """At the preset's own widths; 64 pixels and one clip, so that it fits everywhere."""
    caches = ("--proposals", "felzenszwalb", "--audio", "logmel")
    settings = ("--steps", 1, "--set", "train.clips_per_batch=1")
    combo("train", prepared, "--preset", preset, *caches, "--out", tmp_path / "run", *settings)
    combo("evaluate", tmp_path / "run")


class TestDemo:
    SCORES = Scores(70, 80, "protocol", {}, {})

    def verdict(self, swapped: float, untrained: float) -> str:
        others = {"swapped": replace(self.SCORES, M_J=swapped), "untrained": replace(self.SCORES, M_J=untrained)}
        return _verdict({"trained": self.SCORES, **others})

    def test_passes_when_the_model_listens(self) -> None:
        assert "needs the sound" in self.verdict(swapped=10, untrained=5)

    @pytest.mark.parametrize(("swapped", "untrained"), [(65, 5), (10, 60.5)])
    def test_fails_otherwise(self, swapped: float, untrained: float) -> None:
        with pytest.raises(ComboError, match="the demo failed"):
            self.verdict(swapped, untrained)

    def test_two_steps_make_every_file_but_do_not_pass(self, tmp_path: Path) -> None:
        with pytest.raises(ComboError, match="the demo failed"):
            demo(tmp_path, clips=12, steps=2)
        page = (tmp_path / "report.html").read_text()
        assert page.count("<section") == 2  # test clips
        assert "http" not in page.replace("http://www.w3.org", "")
        assert (tmp_path / "predict" / "video" / "overlay.mp4").is_file()
