"""Prediction on video files: what is written, for any length, with and without sound, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
import torch
from PIL import Image
from two_ways import cached_labels, streamed_labels

from combo_avs.data.sources.synthetic.source import render_video
from combo_avs.data.sources.video.decoding import inspect
from combo_avs.data.sources.video.writer import write_video
from combo_avs.errors import BadInput
from combo_avs.pipeline.common.choices import Outputs
from combo_avs.pipeline.common.pictures import label_colours, outline, overlay_labels
from combo_avs.pipeline.config.tree import Config, load_config
from combo_avs.pipeline.predict.label_maps import read_window
from combo_avs.pipeline.predict.predict import predict
from combo_avs.pipeline.predict.segmenter import AS_TRAINED, Segmenter, StageOne, open_segmenter
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.train.loop import train


@pytest.fixture(scope="module")
def run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict") / "run"
    config = load_config("tiny", ["model.width=32", "model.heads=2", "model.num_queries=4", "train.steps=1"])
    train(DataNames(prepared, "felzenszwalb", "logmel"), config, folder)
    return folder


def film(path: Path, seconds: int, fps: int = 10, sound: bool = True) -> Path:
    made = render_video(3, seconds, fps, size=72)
    write_video(path, made.frames(), fps, made.waveform.astype(np.float32) if sound else None)
    return path


def decoded(path: Path) -> tuple[int, float, tuple[int, int]]:
    """Pictures, seconds of sound, (width, height)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        pictures = sum(1 for _ in container.decode(stream))
        size = (stream.width, stream.height)
    with av.open(str(path)) as container:
        sound = sum(f.samples / f.sample_rate for f in container.decode(audio=0)) if container.streams.audio else 0.0
    return pictures, sound, size


def see_something(segmenter: Segmenter, video: Path) -> None:
    """A network that was trained for one step sees no object yet: give it weights with which it sees some."""
    window = read_window(inspect(video), 0, 64, every_frame=False)
    decoder = segmenter.model.decoder
    for seed in range(50):
        torch.manual_seed(seed)
        for layer in (decoder.class_embed, decoder.mask_embed[-1]):
            torch.nn.init.normal_(layer.weight)
            torch.nn.init.normal_(layer.bias)
        if segmenter(window.frames, window.seconds, window.log_mel, window.waveform).float().std() > 0.2:
            return
    raise AssertionError("no seed gives both labels")


class TestOutput:
    @pytest.mark.parametrize(("seconds", "every_frame"), [(3, None), (7, None), (2, "segment"), (3, "interpolate")])
    def test_overlay_and_masks(
        self, run: Path, tmp_path: Path, seconds: int, every_frame: Literal["segment", "interpolate"] | None
    ) -> None:
        video, outputs = film(tmp_path / "a film.mp4", seconds), Outputs(every_frame=every_frame)
        lines = predict(run, [video], tmp_path / "out", outputs=outputs)
        assert any("a film.mp4" in line for line in lines)
        pictures, sound, size = decoded(tmp_path / "out" / "a_film" / "overlay.mp4")
        assert pictures == 10 * seconds
        assert sound == pytest.approx(seconds, abs=0.1)
        assert size == (72, 72)
        masks = sorted((tmp_path / "out" / "a_film" / "masks").glob("*.png"))
        assert [m.name for m in masks] == [f"{k:05d}.png" for k in range(pictures if every_frame else seconds)]
        assert set(np.unique(np.stack([np.asarray(Image.open(m)) for m in masks]))) <= {0, 255}
        assert Image.open(masks[0]).size == (72, 72)

    def test_several_videos_and_none_of_their_sound(self, run: Path, tmp_path: Path) -> None:
        files = [film(tmp_path / "one.mp4", 3), film(tmp_path / "two.mkv", 4, sound=False)]
        lines = predict(run, files, tmp_path / "out")
        assert [("no sound track" in line) for line in lines].count(True) == 1
        assert decoded(tmp_path / "out" / "one" / "overlay.mp4")[0] == 30
        assert decoded(tmp_path / "out" / "two" / "overlay.mp4")[:2] == (40, 0.0)

    def test_again_into_the_same_folder_with_another_video(self, run: Path, tmp_path: Path) -> None:
        predict(run, [film(tmp_path / "one.mp4", 3)], tmp_path / "out")
        predict(run, [film(tmp_path / "one.mp4", 4)], tmp_path / "out")
        assert decoded(tmp_path / "out" / "one" / "overlay.mp4")[0] == 40

    def test_masks_are_those_of_stage_one_and_evaluation(self, run: Path, tmp_path: Path) -> None:
        """Streamed windows give what import, precompute and the network on the caches give."""
        video = film(tmp_path / "a.mp4", 7)
        segmenter = open_segmenter(run, AS_TRAINED, "cpu")
        see_something(segmenter, video)
        streamed = streamed_labels(segmenter, video, tmp_path / "maps")
        np.testing.assert_array_equal(streamed, cached_labels(segmenter, video, tmp_path / "root"))
        assert streamed.shape == (7, 64, 64)
        assert len(np.unique(streamed)) == 2


class TestRefusals:
    def test_not_a_video(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "notes.mp4").write_text("no video at all")
        with pytest.raises(BadInput, match=r"notes\.mp4"):
            predict(run, [tmp_path / "notes.mp4", tmp_path / "gone.mp4"], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_another_generator_than_the_run_was_trained_with(self, run: Path, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"felzenszwalb is not what the run was trained with.*parameters"):
            predict(run, [film(tmp_path / "a.mp4", 3)], tmp_path / "out", StageOne(("precompute.generator.sigma=2",)))

    def test_a_run_on_imported_maskiges_needs_a_generator(self, run: Path, tmp_path: Path) -> None:
        info = json.loads((run / "run.json").read_text())
        info["proposals_maker"] = {
            "name": "official-maskiges",
            "version": "1",
            "parameters": {},
            "weights_sha256": None,
        }
        other = Path(shutil.copytree(run, tmp_path / "run"))
        (other / "run.json").write_text(json.dumps(info))
        video = film(tmp_path / "a.mp4", 3)
        with pytest.raises(BadInput, match="--proposals NAME"):
            predict(other, [video], tmp_path / "out")
        predict(other, [video], tmp_path / "out", StageOne(proposals="none"))
        assert (tmp_path / "out" / "a" / "overlay.mp4").is_file()

    def test_settings_that_are_the_run_s_own(self, run: Path, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"model\.width=64: model is read by 'combo train'"):
            predict(run, [film(tmp_path / "a.mp4", 3)], tmp_path / "out", StageOne(("model.width=64",)))
        assert not (tmp_path / "out").exists()

    def test_a_run_without_weights(self, run: Path, tmp_path: Path) -> None:
        for name in ("config.yaml", "run.json"):
            (tmp_path / name).write_bytes((run / name).read_bytes())
        with pytest.raises(BadInput, match="no checkpoint"):
            predict(tmp_path, [film(tmp_path / "a.mp4", 3)], tmp_path / "out")


class TestPictures:
    def test_overlay_changes_only_the_mask(self) -> None:
        frame = np.full((8, 8, 3), 100, np.uint8)
        mask = np.zeros((8, 8), bool)
        mask[2:5, 2:5] = True
        painted = overlay_labels(frame, mask.astype(np.uint8), label_colours(2))
        assert (painted[~mask] == 100).all()
        assert (painted[mask] != 100).any(axis=-1).all()

    def test_outline(self) -> None:
        labels = np.zeros((7, 7), np.uint8)
        labels[1:6, 1:6] = 2
        expected = labels > 0
        expected[2:5, 2:5] = False
        np.testing.assert_array_equal(outline(labels), expected)

    def test_classes_have_colours(self) -> None:
        colours = label_colours(71)
        assert colours.shape == (71, 3)
        labels = np.arange(64, dtype=np.uint8).reshape(8, 8)
        overlay_labels(np.zeros((8, 8, 3), np.uint8), labels, colours)


def test_maker_of_a_run_is_plain_json(run: Path, config: Config) -> None:
    maker = json.loads((run / "run.json").read_text())["proposals_maker"]
    assert set(maker) == {"name", "version", "parameters", "weights_sha256", "maskige"}
