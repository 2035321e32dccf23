"""What is written is what is read back."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from coded_video import coded, number_of, tone

from combo_avs.data.sources.video import writer as video_writer
from combo_avs.data.sources.video.source import VideoSource
from combo_avs.data.sources.video.writer import write_video


def pictures(count: int = 75, shape: tuple[int, int] = (64, 160)) -> list[np.ndarray]:
    return [coded(k)[: shape[0], : shape[1]] for k in range(count)]


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]


@pytest.mark.parametrize("codecs", [video_writer.VIDEO_CODECS, ("mpeg4",)])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_pictures_come_back(tmp_path, monkeypatch, codecs, name):
    monkeypatch.setattr(video_writer, "VIDEO_CODECS", codecs)
    write_video(tmp_path / name, iter(pictures()), 25, tone(3, 16_000).mean(axis=0))
    frames = decoded(tmp_path / name)
    assert [number_of(f) for f in frames] == list(range(75))
    assert np.abs(np.stack(frames).astype(int) - np.stack(pictures())).mean() < 4


@pytest.mark.parametrize("fps", [25, 8, Fraction(30000, 1001), Fraction(911, 125)])
def test_length_and_sound_come_back(tmp_path, fps):
    sound = tone(3, 16_000).mean(axis=0)
    count = round(3 * fps)
    write_video(tmp_path / "a.mp4", pictures(count), fps, sound)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].frames == count
        assert abs(float(container.duration / av.time_base) - 3) < 0.15
    source = VideoSource([tmp_path / "a.mp4"], 5, 40)
    waveform = source.read(source.clips[0]).waveform
    assert abs(len(waveform) - len(sound)) < 2_000
    assert np.corrcoef(waveform[:46_000], sound[:46_000])[0, 1] > 0.98


def test_sound_beyond_full_scale(tmp_path):
    sound = 3 * tone(3, 16_000).mean(axis=0)
    write_video(tmp_path / "a.mp4", pictures(), 25, sound)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.audio[0].rate == 16_000
        samples = np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])
    assert np.corrcoef(samples[:46_000], sound.clip(-1, 1)[:46_000])[0, 1] > 0.98


def test_without_sound(tmp_path):
    write_video(tmp_path / "a.mp4", pictures(), 25)
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert not container.streams.audio


@pytest.mark.parametrize("shape", [(63, 159), (64, 159), (1, 1)])
def test_odd_sides_are_made_even_without_moving_the_picture(tmp_path, shape):
    write_video(tmp_path / "a.mp4", pictures(5, shape), 25)
    frame = decoded(tmp_path / "a.mp4")[4].astype(int)
    assert frame.shape[:2] == (shape[0] + shape[0] % 2, shape[1] + shape[1] % 2)
    assert np.abs(frame[: shape[0], : shape[1]] - pictures(5, shape)[4]).mean() < 8
    assert np.abs(frame[-1] - frame[-2]).mean() < 8


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [coded(0), coded(1)[:32]],
        [coded(0).astype(np.float32)],
        [coded(0)[..., 0]],
    ],
)
def test_unfit_frames_leave_what_was_there(tmp_path, frames):
    (tmp_path / "a.mp4").write_bytes(b"older")
    with pytest.raises(ValueError, match="frame"):
        write_video(tmp_path / "a.mp4", frames, 25)
    assert (tmp_path / "a.mp4").read_bytes() == b"older"
    assert len(list(tmp_path.iterdir())) == 1
