"""Prediction on video files: what is written, for any length, with and without sound, and what is refused."""

import json
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from combo_avs.data.synthetic import render_video
from combo_avs.data.video_playback import playback
from combo_avs.data.video_writer import write_video
from combo_avs.errors import BadInput
from combo_avs.pipeline.config import Config, load_config
from combo_avs.pipeline.pictures import label_colours, outline, overlay, overlay_labels
from combo_avs.pipeline.predict import predict
from combo_avs.pipeline.train import train


@pytest.fixture(scope="module")
def run(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict") / "run"
    config = load_config("tiny", ["model.width=32", "model.heads=2", "model.num_queries=4", "train.steps=1"])
    train(prepared, config, "felzenszwalb", "logmel", folder)
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


class TestOutput:
    @pytest.mark.parametrize("seconds", [3, 5, 7])
    def test_overlay_and_masks(self, run: Path, tmp_path: Path, seconds: int) -> None:
        lines = predict(run, [film(tmp_path / "a film.mp4", seconds)], tmp_path / "out", [])
        assert any("a film.mp4" in line for line in lines)
        pictures, sound, size = decoded(tmp_path / "out" / "a_film" / "overlay.mp4")
        assert pictures == 10 * seconds
        assert sound == pytest.approx(seconds, abs=0.1)
        assert size == (72, 72)
        masks = sorted((tmp_path / "out" / "a_film" / "masks").iterdir())
        assert [m.name for m in masks] == [f"{k:05d}.png" for k in range(seconds)]
        values = np.unique(np.stack([np.asarray(Image.open(m)) for m in masks]))
        assert set(values) <= {0, 255}
        assert Image.open(masks[0]).size == (64, 64)

    def test_several_videos_and_none_of_their_sound(self, run: Path, tmp_path: Path) -> None:
        files = [film(tmp_path / "one.mp4", 3), film(tmp_path / "two.mkv", 4, sound=False)]
        with pytest.warns(UserWarning, match=r"two\.mkv"):
            predict(run, files, tmp_path / "out", [])
        assert decoded(tmp_path / "out" / "one" / "overlay.mp4")[0] == 30
        assert decoded(tmp_path / "out" / "two" / "overlay.mp4")[:2] == (40, 0.0)

    def test_again_into_the_same_folder_with_another_video(self, run: Path, tmp_path: Path) -> None:
        predict(run, [film(tmp_path / "one.mp4", 3)], tmp_path / "out", [])
        predict(run, [film(tmp_path / "one.mp4", 4)], tmp_path / "out", [])
        assert decoded(tmp_path / "out" / "one" / "overlay.mp4")[0] == 40


class TestRefusals:
    def test_not_a_video(self, run: Path, tmp_path: Path) -> None:
        (tmp_path / "notes.mp4").write_text("no video at all")
        with pytest.raises(BadInput, match=r"notes\.mp4"):
            predict(run, [tmp_path / "notes.mp4", tmp_path / "gone.mp4"], tmp_path / "out", [])
        assert not (tmp_path / "out").exists()

    def test_another_generator_than_the_run_was_trained_with(self, run: Path, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"felzenszwalb is not what the run was trained with.*parameters"):
            predict(run, [film(tmp_path / "a.mp4", 3)], tmp_path / "out", ["precompute.generator.sigma=2"])

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
            predict(other, [video], tmp_path / "out", [])
        predict(other, [video], tmp_path / "out", [], proposals="none")
        assert (tmp_path / "out" / "a" / "overlay.mp4").is_file()

    def test_a_run_without_weights(self, run: Path, tmp_path: Path) -> None:
        for name in ("config.yaml", "run.json"):
            (tmp_path / name).write_bytes((run / name).read_bytes())
        with pytest.raises(BadInput, match="no checkpoint"):
            predict(tmp_path, [film(tmp_path / "a.mp4", 3)], tmp_path / "out", [])


class TestPlayback:
    def test_every_picture_once_at_a_constant_rate(self, tmp_path: Path) -> None:
        shown = playback(film(tmp_path / "a.mp4", 3, fps=12))
        assert shown.fps == 12
        assert len(list(shown.pictures())) == 36

    def test_a_long_picture_is_repeated(self, tmp_path: Path) -> None:
        path = tmp_path / "gap.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for number, pts in enumerate([0, 1, 2, 12, 13]):
                image = np.full((32, 32, 3), 50 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = pts, Fraction(1, 10)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        shown = playback(path)
        means = [picture.mean() for picture in shown.pictures()]
        at = [means[round(t * float(shown.fps))] for t in (0.25, 0.7, 1.1)]
        assert at == pytest.approx([100, 100, 100], abs=6)


class TestPictures:
    def test_overlay_changes_only_the_mask(self) -> None:
        frame = np.full((8, 8, 3), 100, np.uint8)
        mask = np.zeros((8, 8), bool)
        mask[2:5, 2:5] = True
        painted = overlay(frame, mask)
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
    assert set(maker) == {"name", "version", "parameters", "weights_sha256"}
