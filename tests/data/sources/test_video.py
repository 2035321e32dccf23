"""Video files as clips: which pictures and which sound are read, for every kind of time stamp."""

import json
import warnings
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from coded_video import coded, make_video, number_of, remux, tone
from contracts import ClipSourceContract
from PIL import Image

from combo_avs.base import IGNORE_LABEL
from combo_avs.data.audio import resample
from combo_avs.data.sources.video.source import VideoSource
from combo_avs.data.wav import read_wav

SIZE = 40


class TestVideoSourceContract(ClipSourceContract):
    @pytest.fixture
    def source(self, tmp_path):
        return VideoSource([make_video(tmp_path / name, 180) for name in ("a.mp4", "b.mkv")], 5, SIZE)

    @pytest.fixture
    def unreadable(self, tmp_path):
        path = make_video(tmp_path / "a.mp4", 750, container_options={"movflags": "faststart"})
        source = VideoSource([path], 5, SIZE)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        return source, source.clips[-1]


def numbers(source: VideoSource) -> list[list[int]]:
    """The pictures that each clip shows, read in an order that makes every seek start afresh."""
    shown = {clip.id: [number_of(f) for f in source.read(clip).frames] for clip in reversed(source.clips)}
    return [shown[clip.id] for clip in source.clips]


def published(fps: int, second: int) -> int:
    """The frame of a second by the published rule, for whole frame rates."""
    return int(second * fps + 15 / 16 * fps)


def fully_decoded(path: Path) -> tuple[list[Fraction], list[int]]:
    """Time (from the first picture) and number of every picture, without any seek."""
    with av.open(str(path)) as container:
        frames = [(f.pts * f.time_base, number_of(f.to_ndarray(format="rgb24"))) for f in container.decode(video=0)]
    return [t - frames[0][0] for t, _ in frames], [n for _, n in frames]


# --- Pictures ---


@pytest.mark.parametrize("fps", [16, 24, 25, 30])
def test_whole_rates_give_the_published_frames(tmp_path, fps):
    source = VideoSource([make_video(tmp_path / "a.mp4", 12 * fps, fps)], 5, SIZE)
    shown = [n for clip, row in zip(source.clips, numbers(source), strict=True) for n in row[: sum(clip.frame_valid)]]
    assert shown == [published(fps, second) for second in range(12)]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("29.97.mp4", {"fps": Fraction(30000, 1001), "count": 450}),
        ("7.29.mp4", {"fps": Fraction(911, 125), "count": 100}),
        ("b-frames.mkv", {}),
        ("open-gop.mkv", {"options": {"g": "50", "bf": "3", "x264-params": "open-gop=1"}}),
        ("one-key-frame.mp4", {"options": {"g": "1000", "bf": "3"}}),
        ("stream.ts", {"options": {"g": "50", "bf": "3", "x264-params": "open-gop=1"}}),
        (
            "web.webm",
            {
                "codec": "libvpx",
                "sound": "libopus",
                "sound_rate": 48_000,
                "options": {"deadline": "realtime"},
            },
        ),
        ("old.avi", {"codec": "mpeg4", "sound": "mp3", "options": {"g": "50"}}),
    ],
)
def test_seeking_reads_what_full_decoding_shows(tmp_path, name, arguments):
    path = make_video(tmp_path / name, **arguments)
    times, order = fully_decoded(path)
    source = VideoSource([path], 5, SIZE)
    assert len(source.clips) > 2
    for begin, (clip, shown) in enumerate(zip(source.clips, numbers(source), strict=True)):
        instants = [5 * begin + k + Fraction(15, 16) for k in range(sum(clip.frame_valid))]
        expected = [order[sum(t <= instant for t in times) - 1] for instant in instants]
        assert shown[: len(expected)] == expected


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_variable_frame_rate_goes_by_time_stamps(tmp_path, ending):
    gaps = np.random.default_rng(0).integers(1, 20, 200) * 10  # milliseconds
    times = [Fraction(int(ms), 1000) for ms in np.cumsum(gaps) - gaps[0]]
    source = VideoSource([make_video(tmp_path / f"a.{ending}", 200, times=times)], 5, SIZE)
    assert len(source.clips) == round(float(times[-1])) // 5 + 1
    for begin, (clip, shown) in enumerate(zip(source.clips, numbers(source), strict=True)):
        for k in range(sum(clip.frame_valid)):
            assert shown[k] == sum(t <= 5 * begin + k + Fraction(15, 16) for t in times) - 1


def test_avi_with_b_frames_is_counted(tmp_path):
    """Its time stamps are those of decoding; the pictures must come out in order all the same."""
    path = make_video(tmp_path / "a.avi", 250, sound="pcm_s16le")
    assert numbers(VideoSource([path], 10, SIZE))[0] == [published(25, second) for second in range(10)]


def test_a_still_picture_lasts(tmp_path):
    path = make_video(tmp_path / "slides.mp4", 3, times=[Fraction(0), Fraction(4), Fraction(11)])
    source = VideoSource([path], 10, SIZE)
    assert numbers(source)[0] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_pictures_are_turned_upright(tmp_path, rotation):
    source = VideoSource([make_video(tmp_path / "a.mp4", 50, rotation=rotation)], 5, SIZE)
    turned = source.read(source.clips[0]).frames[0]
    assert number_of(np.rot90(turned, -rotation // 90)) == 23
    assert number_of(turned) == number_of(np.rot90(coded(23), rotation // 90))


def test_frames_are_squashed_by_plain_bilinear_interpolation(tmp_path):
    path = make_video(tmp_path / "a.mp4", 50)
    with av.open(str(path)) as container:
        image = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)][23].astype(float)
    height, width = image.shape[:2]
    y, x = ((np.arange(SIZE) + 0.5) * side / SIZE - 0.5 for side in (height, width))
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    wy, wx = (y - y0)[:, None, None], (x - x0)[None, :, None]
    corner = [
        [image[np.ix_((y0 + i).clip(0, height - 1), (x0 + j).clip(0, width - 1))] for j in (0, 1)] for i in (0, 1)
    ]
    expected = sum(corner[i][j] * (wy if i else 1 - wy) * (wx if j else 1 - wx) for i in (0, 1) for j in (0, 1))
    source = VideoSource([path], 5, SIZE)
    assert np.abs(source.read(source.clips[0]).frames[0] - expected).max() <= 1


# --- Cutting into clips ---


def test_the_last_clip_is_filled_up(tmp_path):
    source = VideoSource([make_video(tmp_path / "a.mp4", 7 * 25)], 5, SIZE)
    assert [c.frame_valid for c in source.clips] == [(True,) * 5, (True, True, False, False, False)]
    for clip in source.clips:
        assert clip.frame_times == (0.9375, 1.9375, 2.9375, 3.9375, 4.9375)
        assert (clip.subset, clip.split, clip.objects, clip.source) == ("video", "test", (), "a")
        assert not any(clip.frame_annotated)
    arrays = source.read(source.clips[1])
    assert [number_of(f) for f in arrays.frames] == [148, 173, 173, 173, 173]
    assert (arrays.labels == IGNORE_LABEL).all()
    assert arrays.labels.shape == (5, SIZE, SIZE)
    assert source.short_audio == "silence"


@pytest.mark.parametrize(("frames", "valid"), [(1, 1), (10, 1), (25, 1), (36, 1), (38, 2), (137, 5), (138, 6)])
def test_a_second_counts_if_half_of_it_is_there(tmp_path, frames, valid):
    source = VideoSource([make_video(tmp_path / "a.mp4", frames)], 10, SIZE)
    (clip,) = source.clips
    assert sum(clip.frame_valid) == valid
    assert [number_of(f) for f in source.read(clip).frames][-1] == min(published(25, valid - 1), frames - 1)


def test_length_is_found_where_no_header_tells_it(tmp_path):
    live = remux(make_video(tmp_path / "a.mp4"), tmp_path / "live.mkv", {"live": "1"})
    with av.open(str(live)) as container:
        assert container.duration is None
    assert [sum(c.frame_valid) for c in VideoSource([live], 5, SIZE).clips] == [5, 5, 2]


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_sound_does_not_lengthen_the_video(tmp_path, ending):
    path = make_video(tmp_path / f"a.{ending}", 100, sound_seconds=20)
    assert [sum(c.frame_valid) for c in VideoSource([path], 5, SIZE).clips] == [4]


def test_names_are_unique_and_plain(tmp_path):
    names = ["a.mp4", "x/a.mp4", "y/A.mp4", "y/a-2.mp4", "-$(rm).mp4", "_p.v.mp4", "ü ber.mp4"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
    first = make_video(tmp_path / names[0], 25)
    for name in names[1:]:
        (tmp_path / name).write_bytes(first.read_bytes())
    source = VideoSource([tmp_path / name for name in names], 5, SIZE)
    ids = [clip.id for clip in source.clips]
    assert len({i.casefold() for i in ids}) == len(names)
    assert all(set(i) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZü0123456789_-") for i in ids)
    assert [source.videos[c.source].path for c in source.clips] == [tmp_path / name for name in names]


def test_fingerprint_parameters_tell_videos_apart(tmp_path):
    paths = [make_video(tmp_path / "a.mp4", 50), make_video(tmp_path / "b.mp4", 75)]
    texts = [
        json.dumps(VideoSource([p], t, SIZE).parameters) for p, t in [(paths[0], 5), (paths[0], 10), (paths[1], 5)]
    ]
    (tmp_path / "b.mp4").replace(tmp_path / "a.mp4")
    texts.append(json.dumps(VideoSource([paths[0]], 5, SIZE).parameters))
    assert len(set(texts)) == 4
    assert str(tmp_path) not in "".join(texts)


def test_threads_may_read_at_the_same_time(tmp_path):
    source = VideoSource([make_video(tmp_path / "a.mp4", 500)], 5, SIZE)
    alone = [source.read(clip) for clip in source.clips]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(source.read, source.clips))
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal(a.frames, b.frames)
        assert np.array_equal(a.waveform, b.waveform)


# --- Sound ---


@pytest.mark.parametrize("rate", [44_100, 16_000, 22_050])
def test_windows_of_sound_are_cut_from_the_whole(tmp_path, rate):
    path = make_video(tmp_path / "a.mkv", 325, sound="pcm_s16le", sound_rate=rate)
    source = VideoSource([path], 5, SIZE)
    windows = [source.read(clip).waveform for clip in source.clips]
    assert [len(w) for w in windows] == [80_000, 80_000, 48_000]
    samples = np.round(tone(13, rate) * 32767).mean(axis=0, dtype=np.float64) / 32768
    assert np.abs(np.concatenate(windows) - resample(samples, rate)).max() < 1e-9


@pytest.mark.parametrize(
    ("name", "codec", "lag"),
    [("a.mp4", "aac", 0), ("a.ts", "aac", 0), ("a.mkv", "aac", 16), ("a.mkv", "libopus", 16)],
)
def test_sound_keeps_time_with_the_pictures(tmp_path, name, codec, lag):
    """To the sample (`lag` at 16 kHz), or to the millisecond where the container stamps those."""
    source = VideoSource([make_video(tmp_path / name, sound=codec, sound_rate=48_000)], 5, SIZE)
    expected = resample(tone(12, 48_000).mean(axis=0), 48_000)
    for begin, clip in enumerate(source.clips):
        heard = source.read(clip).waveform[1_000:30_000]
        at = begin * 80_000 + 1_000
        shifted = [expected[at + s : at + s + len(heard)] for s in range(-lag, lag + 1)]
        assert min(np.sqrt(((heard - e) ** 2).mean()) for e in shifted) < 0.02


def test_late_sound_is_preceded_by_silence(tmp_path):
    path = make_video(tmp_path / "a.mkv", 300, sound="pcm_s16le", sound_start=6 * 44_100, sound_seconds=3)
    source = VideoSource([path], 5, SIZE)
    first, second, third = (source.read(clip).waveform for clip in source.clips)
    assert not first.any()
    assert not second[:15_900].any()
    assert len(second) == 4 * 16_000
    assert len(third) == 0
    assert np.abs(second[16_000:] - resample(tone(3, 44_100).mean(axis=0), 44_100)).max() < 1e-3


def test_no_sound_track_is_a_warning_and_no_samples(tmp_path):
    with pytest.warns(UserWarning, match=r"no sound track.*silent\.mp4"):
        source = VideoSource([make_video(tmp_path / "silent.mp4", 50, sound=None)], 5, SIZE)
    assert source.read(source.clips[0]).waveform.shape == (0,)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VideoSource([make_video(tmp_path / "loud.mp4", 50)], 5, SIZE)


# --- Real clips ---


@pytest.fixture(scope="module")
def samples(real_clips: Path) -> Path:
    return real_clips / "mini_avsbench" / "AVSBench_object"


def test_real_videos_give_the_frames_cut_from_them(samples):
    """The same frames at whole rates; at others, whose rate was rounded, neighbouring ones."""
    paths = sorted(samples.glob("*/*/raw_videos/**/*.mp4"))
    source = VideoSource(paths, 5)
    exact = 0
    for clip in source.clips:
        path = source.videos[clip.source].path
        with av.open(str(path)) as container:
            fps = container.streams.video[0].average_rate
        arrays = source.read(clip)
        for k, frame in enumerate(arrays.frames):
            (cut,) = samples.glob(f"*/*/visual_frames/**/{path.stem}*_{k + 1}.png")
            difference = np.abs(frame - np.asarray(Image.open(cut)).astype(float)).mean()
            exact += difference < 0.5
            assert difference < (0.5 if abs(fps - round(fps)) < 0.001 else 15)
        (wav,) = samples.glob(f"*/*/audio_wav/**/{path.stem}.wav")
        cut_sound = read_wav(wav)[: len(arrays.waveform)]
        assert np.corrcoef(arrays.waveform, cut_sound)[0, 1] > 0.98
    assert exact >= 30
