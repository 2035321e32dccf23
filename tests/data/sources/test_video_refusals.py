"""Video files that are refused, and clips of damaged ones."""

from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from coded_video import coded, make_video, number_of, remux

from combo_avs.data.sources.video.source import VideoSource
from combo_avs.errors import BadInput, ClipError

SIZE = 40


def refusal(*paths: Path, seconds: int = 5, size: int = SIZE) -> str:
    with pytest.raises(BadInput) as caught:
        VideoSource(paths, seconds, size)
    return str(caught.value)


def sound_with_cover(path: Path) -> None:
    """A sound file whose cover picture is a video stream to libav."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        cover = container.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 64, 160, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        packets = cover.encode(av.VideoFrame.from_ndarray(coded(1), format="rgb24")) + cover.encode()
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(packets + sound.encode(frame) + sound.encode())


def test_every_file_that_is_no_video_is_listed(tmp_path):
    good = make_video(tmp_path / "good.mp4", 50)
    files = {
        name: tmp_path / name for name in ("empty.mp4", "text.txt", "sound.wav", "cover.mp4", "cut.mp4", "none.mp4")
    }
    files["empty.mp4"].touch()
    files["text.txt"].write_text("not a video\n" * 500)  # libav would show it as a terminal does
    soundfile.write(files["sound.wav"], np.zeros(16_000), 16_000)
    sound_with_cover(files["cover.mp4"])
    files["cut.mp4"].write_bytes(good.read_bytes()[:-2000])  # the index is at the end
    message = refusal(good, *files.values(), tmp_path)
    for path in files.values():
        assert str(path) in message
    assert f"{tmp_path} is no file" in message
    assert str(good) not in message
    assert f"{files['cover.mp4']}: it has no video stream" in message
    assert f"{files['sound.wav']}: not in a container that is read here" in message


@pytest.mark.parametrize("name", ["list.m3u8", "list.ffconcat", "list.mp4"])
def test_play_lists_cannot_reach_other_files(tmp_path, name):
    make_video(tmp_path / "secret.ts", 50)
    text = "ffconcat version 1.0\nfile secret.ts\n"
    if name == "list.m3u8":
        text = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / name).write_text(text)
    assert name in refusal(tmp_path / name)


def test_a_picture_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.png"), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = 64, 160, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(coded(1), format="rgb24")) + stream.encode())
    assert "a.png" in refusal(tmp_path / "a.png")


def test_a_video_track_without_pictures(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        video = container.add_stream("libx264", rate=25)
        video.height, video.width, video.pix_fmt = 64, 160, "yuv420p"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(sound.encode(frame) + sound.encode())
    assert "a.mp4" in refusal(tmp_path / "a.mp4")


def test_arguments_that_make_no_clips(tmp_path):
    path = make_video(tmp_path / "a.mp4", 25)
    assert "clips of 7 seconds" in refusal(path, seconds=7)
    assert "0 pixels" in refusal(path, size=0)
    assert "no video file" in refusal()


def readable(path: Path) -> list[bool]:
    """False for each clip that cannot be read, with an error that names it and its file.

    The others must show the right pictures.
    """
    source = VideoSource([path], 5, SIZE)
    result = []
    for begin, clip in enumerate(source.clips):
        try:
            frames = source.read(clip).frames
        except ClipError as error:
            result.append(clip.id not in str(error) or str(path) not in str(error))
        else:
            assert [number_of(f) for f in frames] == [125 * begin + 25 * k + 23 for k in range(5)]
            result.append(True)
    return result


@pytest.mark.parametrize(("name", "options"), [("a.mp4", {"movflags": "faststart"}), ("a.mkv", {})])
def test_clips_behind_the_end_of_a_cut_file_are_quarantined(tmp_path, name, options):
    path = remux(make_video(tmp_path / "whole.mp4", 750), tmp_path / name, options)
    assert readable(path) == [True] * 6
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert readable(path) in ([True] * 2 + [False] * 4, [True] * 3 + [False] * 3)


@pytest.mark.parametrize("name", ["a.mp4", "a.ts"])
def test_only_clips_in_a_damaged_place_are_quarantined(tmp_path, name):
    path = remux(make_video(tmp_path / "whole.mp4", 750), tmp_path / name, {})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = np.random.default_rng(0).bytes(20_000)
    path.write_bytes(data)
    good = readable(path)
    assert good[:2] == good[-2:] == [True, True]
    assert not all(good)
