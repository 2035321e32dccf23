"""A video written with other pictures keeps its times and its sound."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from coded_video import make_video, number_of, remux

from combo_avs.data.sources.video import writer as video_writer
from combo_avs.data.sources.video.decoding import inspect, play, read_span, readable_seconds, upright
from combo_avs.data.sources.video.remux import replace_frames

WEBM = {"codec": "libvpx", "sound": "libopus", "sound_rate": 48_000, "options": {"deadline": "realtime"}}


def remade(path: Path) -> Path:
    """A copy whose pictures were decoded and encoded again."""
    video = inspect(path)
    target = path.with_name(f"{path.name}.remade.mp4")
    replace_frames(target, video, ((time, upright(frame)) for time, frame in play(video)))
    return target


def shown(path: Path) -> list[tuple[float, int]]:
    return [(round(float(time), 3), number_of(upright(frame))) for time, frame in play(inspect(path))]


def heard(path: Path) -> tuple[int, int, np.ndarray]:
    """Rate, channels, and float32 [channels, samples] from the first picture on."""
    with av.open(str(path)) as container:
        begin = container.streams.video[0].start_time * container.streams.video[0].time_base
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
        frames = [f for decoded in container.decode(stream) for f in resampler.resample(decoded)]
        samples = np.concatenate([f.to_ndarray() for f in frames], axis=1)
        late = round(float(frames[0].pts * frames[0].time_base - begin) * stream.rate)
        samples = np.pad(samples, ((0, 0), (late, 0))) if late > 0 else samples[:, -late:]
        return stream.rate, stream.channels, samples


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("a.mp4", {}),
        ("a.mkv", {"sound": "pcm_s16le"}),
        ("a.ts", {}),
        ("a.webm", WEBM),
        ("a.avi", {"codec": "mpeg4", "sound": "mp3", "options": {"g": "50"}}),
        ("ntsc.mp4", {"fps": Fraction(30000, 1001)}),
        ("studio.mkv", {"sound": "pcm_s16le", "sound_rate": 96_000}),
        ("late.mkv", {"sound": "pcm_s16le", "sound_start": 44_100, "sound_seconds": 2}),
    ],
)
def test_pictures_keep_their_times_and_the_sound_its_rate_and_channels(tmp_path, name, arguments):
    path = make_video(tmp_path / name, 75, **arguments)
    copy = remade(path)
    assert shown(copy) == shown(path)
    assert abs(float(inspect(copy).duration - inspect(path).duration)) < 0.001
    (rate, channels, before), (rate_after, channels_after, after) = heard(path), heard(copy)
    assert (rate_after, channels_after) == (rate, channels)
    assert abs(before.shape[1] - after.shape[1]) <= 0.06 * rate  # whole packets of sound
    count = min(before.shape[1], after.shape[1]) - rate // 10
    # Some containers stamp whole milliseconds.
    slack = rate // 1000 if name.endswith((".mkv", ".webm")) else 0
    for channel in range(channels):
        whole = before[channel, slack : count - slack]
        likeness = [
            np.corrcoef(whole, after[channel, slack + s : count - slack + s])[0, 1] for s in range(-slack, slack + 1)
        ]
        assert max(likeness) > 0.98


def test_variable_frame_rate_keeps_every_time(tmp_path):
    gaps = np.random.default_rng(0).integers(1, 20, 60) * 10  # milliseconds
    times = [Fraction(int(ms), 1000) for ms in np.cumsum(gaps) - gaps[0]]
    copy = remade(make_video(tmp_path / "a.mp4", 60, times=times))
    assert shown(copy) == [(float(t), n) for n, t in enumerate(times)]


def test_rotated_pictures_are_written_upright(tmp_path):
    path = make_video(tmp_path / "a.mp4", 10, rotation=90)
    copy = remade(path)
    assert inspect(path).size == inspect(copy).size == (160, 64)
    with av.open(str(copy)) as container:
        (frame, *_) = container.decode(video=0)
        assert frame.rotation == 0
        assert number_of(np.rot90(frame.to_ndarray(format="rgb24"), -1)) == 0


def test_colours_stay(tmp_path):
    """Also where the original says nothing of its colour space."""
    video = inspect(make_video(tmp_path / "a.mp4", 5, sound=None))
    red = np.full((64, 160, 3), (200, 40, 30), np.uint8)
    replace_frames(tmp_path / "red.mp4", video, [(Fraction(k, 25), red) for k in range(5)])
    (_, frame), *_ = play(inspect(tmp_path / "red.mp4"))
    assert np.abs(upright(frame).astype(int) - red).mean() < 4


def test_without_h264(tmp_path, monkeypatch):
    monkeypatch.setattr(video_writer, "VIDEO_CODECS", ("mpeg4",))
    path = make_video(tmp_path / "a.mp4", 30, sound=None)
    assert shown(remade(path)) == shown(path)


def test_no_pictures(tmp_path):
    with pytest.raises(ValueError, match="no frame of it can be decoded"):
        replace_frames(tmp_path / "b.mp4", inspect(make_video(tmp_path / "a.mp4", 5)), [])


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv", "a.avi"])
def test_a_span_holds_every_picture_once(tmp_path, name):
    codec = {"codec": "mpeg4", "options": {"g": "50"}} if name.endswith("avi") else {}
    video = inspect(make_video(tmp_path / name, 200, **codec))
    numbers = []
    for second in range(9):  # AVI stamps them one picture late
        times, pictures = read_span(video, Fraction(second), Fraction(second + 1), 40)
        assert all(second <= time < second + 1 for time in times)
        numbers += [number_of(picture) for picture in pictures]
    assert numbers == list(range(200))


@pytest.mark.parametrize(("name", "options"), [("a.mp4", {"movflags": "faststart"}), ("a.mkv", {}), ("a.ts", {})])
def test_how_much_of_a_cut_file_is_there(tmp_path, name, options):
    path = remux(make_video(tmp_path / "whole.mp4", 750), tmp_path / name, options)
    video = inspect(path)
    assert readable_seconds(video) == video.duration
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    there = float(readable_seconds(inspect(path)))
    assert 12 < there < 18
    assert shown(path)[-1][0] == pytest.approx(there, abs=1)


def test_playing_passes_over_what_is_damaged(tmp_path):
    path = make_video(tmp_path / "a.mp4", 500)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 5_000] = np.random.default_rng(0).bytes(5_000)
    path.write_bytes(data)
    times = [time for time, _ in shown(path)]
    assert times[0] == 0
    assert times[-1] == pytest.approx(20, abs=0.1)
