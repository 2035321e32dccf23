"""What prediction writes, with a segmenter whose masks show the number of the picture that they were made of."""

import csv
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import zarr
from bright_segmenter import SIZE, BrightSegmenter, about_of, call, coco_masks, numbers, png_masks, published
from coded_video import make_video, remux

from combo_avs.data.sources.video.decoding import inspect, play, upright
from combo_avs.errors import QUARANTINED, BadInput
from combo_avs.pipeline.predict import predict as job
from combo_avs.pipeline.predict.predict import PartsUnreadable


class TestMasks:
    def test_png_of_every_second_in_the_size_of_the_video(self, segmenter, tmp_path):
        lines = call(tmp_path / "out", make_video(tmp_path / "a.mp4", 175))
        masks = png_masks(tmp_path / "out" / "a" / "masks")
        assert masks.shape == (7, 64, 160)
        assert set(np.unique(masks)) == {0, 255}
        assert numbers(masks) == [published(second) for second in range(7)]
        assert segmenter.calls == [5, 2]
        assert any("7 masks" in line for line in lines)

    def test_the_size_of_the_network(self, segmenter, tmp_path):
        call(tmp_path / "out", make_video(tmp_path / "a.mp4", 75), mask_size="network")
        assert png_masks(tmp_path / "out" / "a" / "masks").shape == (3, SIZE, SIZE)

    @pytest.mark.parametrize("rotation", [90, 180])
    def test_rotated_videos_upright(self, segmenter, tmp_path, rotation):
        call(tmp_path / "out", make_video(tmp_path / "a.mp4", 75, rotation=rotation))
        masks = png_masks(tmp_path / "out" / "a" / "masks")
        assert masks.shape[1:] == ((160, 64) if rotation == 90 else (64, 160))
        assert numbers(np.rot90(masks, -rotation // 90, axes=(1, 2))) == [published(k) for k in range(3)]

    @pytest.mark.parametrize("every_frame", [None, "segment", "interpolate"])
    def test_all_formats_say_the_same(self, segmenter, tmp_path, every_frame):
        segmenter.classes = ("background", "dog", "bird")
        video = make_video(tmp_path / "a.mp4", 75, sound_seconds=1.3)
        for kind in ("png", "coco", "zarr"):
            call(tmp_path / kind, video, masks=kind, every_frame=every_frame)
        png = png_masks(tmp_path / "png" / "a" / "masks")
        assert set(np.unique(png)) == {0, 1, 2}
        np.testing.assert_array_equal(coco_masks(tmp_path / "coco" / "a" / "masks.json"), png)
        store = zarr.open_group(tmp_path / "zarr" / "a" / "masks.zarr", mode="r")
        np.testing.assert_array_equal(store["labels"][:], png)
        assert store.attrs["classes"] == ["background", "dog", "bird"]
        images = json.loads((tmp_path / "coco" / "a" / "masks.json").read_text())["images"]
        with (tmp_path / "png" / "a" / "masks" / "times.csv").open() as file:
            times = [float(row["seconds"]) for row in csv.DictReader(file)]
        assert [i["seconds"] for i in images] == pytest.approx(times)
        assert store["seconds"][:] == pytest.approx(times)
        assert len(times) == (75 if every_frame else 3)


class TestEveryFrame:
    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
    def test_every_picture_is_segmented(self, segmenter, tmp_path, name):
        call(tmp_path / "out", make_video(tmp_path / name, 160), every_frame="segment")
        assert numbers(png_masks(tmp_path / "out" / "a" / "masks")) == list(range(160))
        assert segmenter.calls == [125, 35]

    def test_variable_frame_rate(self, segmenter, tmp_path):
        gaps = np.random.default_rng(0).integers(1, 30, 60) * 10  # milliseconds
        times = [Fraction(int(ms), 1000) for ms in np.cumsum(gaps) - gaps[0]]
        call(tmp_path / "out", make_video(tmp_path / "a.mp4", 60, times=times), every_frame="segment", masks="zarr")
        store = zarr.open_group(tmp_path / "out" / "a" / "masks.zarr", mode="r")
        assert numbers(store["labels"][:]) == list(range(60))
        assert store["seconds"][:] == pytest.approx([float(t) for t in times])

    def test_between_two_seconds_the_masks_move(self, segmenter, tmp_path):
        call(tmp_path / "out", make_video(tmp_path / "a.mp4", 75), every_frame="interpolate")
        masks = png_masks(tmp_path / "out" / "a" / "masks")
        assert len(masks) == 75
        assert numbers(masks[[0, 24, 49, 74]]) == [published(0), published(0), published(1), published(2)]
        assert segmenter.calls == [3]


class TestOverlay:
    def test_pictures_are_green_where_the_mask_is(self, segmenter, tmp_path):
        video = make_video(tmp_path / "a.mp4", 60)
        call(tmp_path / "out", video, every_frame="segment")
        masks = png_masks(tmp_path / "out" / "a" / "masks") > 0
        painted = [upright(f).astype(int) for _, f in play(inspect(tmp_path / "out" / "a" / "overlay.mp4"))]
        original = [upright(f).astype(int) for _, f in play(inspect(video))]
        assert len(painted) == len(original) == 60
        for mask, new, old in zip(masks[1:], painted[1:], original[1:], strict=True):
            greener = (new - old)[..., 1] - (new - old)[..., 0]
            assert greener[mask].mean() > 50
            assert abs(greener[~mask].mean()) < 10

    def test_masks_of_a_second_stay_for_that_second(self, segmenter, tmp_path):
        call(tmp_path / "out", make_video(tmp_path / "a.mp4", 75))
        frames = [upright(f).astype(int) for _, f in play(inspect(tmp_path / "out" / "a" / "overlay.mp4"))]
        for index in (1, 12, 24, 26, 49, 51, 74):
            green = (frames[index][..., 1] - frames[index][..., 0]) > 40
            assert numbers(green[None]) == [published(index // 25)]

    @pytest.mark.parametrize(("sound", "rate", "ending"), [("aac", 44_100, "mp4"), ("pcm_s16le", 32_000, "mkv")])
    def test_the_sound_is_the_original(self, segmenter, tmp_path, sound, rate, ending):
        call(tmp_path / "out", make_video(tmp_path / f"a.{ending}", 75, sound=sound, sound_rate=rate))
        tracks = []
        for path in (tmp_path / f"a.{ending}", tmp_path / "out" / "a" / "overlay.mp4"):
            with av.open(str(path)) as container:
                stream = container.streams.audio[0]
                assert (stream.rate, stream.channels) == (rate, 2)
                resampler = av.AudioResampler(format="fltp", layout="stereo", rate=rate)
                frames = [f for decoded in container.decode(stream) for f in resampler.resample(decoded)]
                tracks.append(np.concatenate([f.to_ndarray() for f in frames], axis=1)[:, : int(2.9 * rate)])
        for channel in range(2):
            assert np.corrcoef(tracks[0][channel], tracks[1][channel])[0, 1] > 0.98


class TestTimeline:
    def test_classes_by_their_seconds(self, segmenter, tmp_path):
        """Number 23 is bright in four squares of ten; sound ends after three of eight seconds."""
        segmenter.classes = ("background", "dog", "bird")
        lines = call(tmp_path / "out", make_video(tmp_path / "a.mp4", 200, sound_seconds=3))
        content = json.loads((tmp_path / "out" / "a" / "timeline.json").read_text())
        spans = [(i["name"], i["begin"], i["end"]) for i in content["intervals"]]
        assert spans[0] == ("dog", 0, 3)
        assert spans[-1][0] == "bird"
        assert spans[-1][2] == 8
        assert content["share_by_second"]["dog"][0] == pytest.approx(0.4, abs=0.05)
        assert any("0:00 to 0:03  dog" in line for line in lines)
        assert any("5 of its seconds have no sound" in line for line in lines)
        with (tmp_path / "out" / "a" / "timeline.csv").open() as file:
            rows = [(r["class"], float(r["from_seconds"]), float(r["to_seconds"])) for r in csv.DictReader(file)]
        assert rows == spans

    def test_no_sound_track_is_said(self, segmenter, tmp_path):
        lines = call(tmp_path / "out", make_video(tmp_path / "a.mp4", 50, sound=None))
        assert any("no sound track" in line and "silence" in line for line in lines)
        with av.open(str(tmp_path / "out" / "a" / "overlay.mp4")) as container:
            assert not container.streams.audio


class TestFaults:
    def test_interrupted_it_goes_on(self, segmenter, tmp_path):
        video = make_video(tmp_path / "a.mp4", 400)
        segmenter.stop_after = 2
        with pytest.raises(KeyboardInterrupt):
            call(tmp_path / "out", video)
        assert not (tmp_path / "out" / "a").exists()
        segmenter.stop_after = None
        call(tmp_path / "out", video)
        assert segmenter.calls == [5, 5, 5, 1]
        assert numbers(png_masks(tmp_path / "out" / "a" / "masks")) == [published(k) for k in range(16)]

    def test_what_is_done_is_left_alone(self, segmenter, tmp_path):
        videos = [make_video(tmp_path / f"{name}.mp4", count) for name, count in (("a", 50), ("b", 75))]
        call(tmp_path / "out", videos[0])
        before = (tmp_path / "out" / "a" / "overlay.mp4").stat().st_mtime_ns
        lines = call(tmp_path / "out", *videos)
        assert (tmp_path / "out" / "a" / "overlay.mp4").stat().st_mtime_ns == before
        assert (tmp_path / "out" / "b" / "overlay.mp4").exists()
        assert any("done before" in line for line in lines)
        (tmp_path / "out" / "b" / "timeline.csv").unlink()
        lines = call(tmp_path / "out", *videos)
        assert ["done before" in line for line in lines if "mp4:" in line] == [True, False]
        assert (tmp_path / "out" / "b" / "timeline.csv").exists()
        assert len(segmenter.calls) == 2  # label maps are there already

    def test_videos_of_one_name(self, segmenter, tmp_path):
        for folder, count in (("x", 50), ("y", 75)):
            (tmp_path / folder).mkdir()
            make_video(tmp_path / folder / "$a: (1).mp4", count)
        both = [tmp_path / folder / "$a: (1).mp4" for folder in "xy"]
        call(tmp_path / "out", *both)
        found = {p.name: len(list((p / "masks").glob("*.png"))) for p in (tmp_path / "out").glob("[!.]*")}
        assert found == {"_a_1_": 2, "_a_1_-2": 3}
        with pytest.raises(BadInput, match="other videos of the same name"):
            call(tmp_path / "out", both[1])

    @pytest.mark.parametrize("every_frame", [None, "segment"])
    def test_a_cut_file_is_done_up_to_there(self, segmenter, tmp_path, every_frame):
        path = remux(make_video(tmp_path / "whole.mp4", 750), tmp_path / "a.mp4", {"movflags": "faststart"})
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(PartsUnreadable, match=r"a\.mp4: breaks off at 1\d\.\d of 30\.0 s") as caught:
            call(tmp_path / "out", path, every_frame=every_frame)
        assert caught.value.exit_code == QUARANTINED
        count = len(png_masks(tmp_path / "out" / "a" / "masks"))
        assert (300 < count < 450) if every_frame else (12 <= count <= 18)

    @pytest.mark.parametrize("every_frame", [None, "segment"])
    def test_damage_in_the_middle_costs_its_window(self, segmenter, tmp_path, every_frame):
        path = make_video(tmp_path / "a.mp4", 500)
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 20_000] = np.random.default_rng(0).bytes(20_000)
        path.write_bytes(data)
        with pytest.raises(PartsUnreadable, match=r"a\.mp4, \d+ to \d+ s: "):
            call(tmp_path / "out", path, masks="zarr", every_frame=every_frame)
        store = zarr.open_group(tmp_path / "out" / "a" / "masks.zarr", mode="r")
        seconds, found = store["seconds"][:], numbers(store["labels"][:])
        right = [n == round(s * 25 - 0.4) for s, n in zip(seconds, found, strict=True)]
        assert all(r for r, s in zip(right, seconds, strict=True) if s < 5 or s > 15)
        assert not all(right)
        assert set(about_of(tmp_path)["unreadable"]["masks.zarr"]) <= {"5 to 10 s", "10 to 15 s"}
        with pytest.raises(PartsUnreadable):  # it is tried again
            call(tmp_path / "out", path, masks="zarr", every_frame=every_frame)
        with pytest.raises(PartsUnreadable):
            call(tmp_path / "out", path, masks="coco", every_frame=every_frame)
        assert set(about_of(tmp_path)["unreadable"]) == set(about_of(tmp_path)["masks"]) == {"masks.json", "masks.zarr"}

    @pytest.mark.parametrize("content", [b"", b"no video\n" * 500])
    def test_no_video_is_refused_before_work(self, segmenter, tmp_path, content):
        (tmp_path / "b.mp4").write_bytes(content)
        with pytest.raises(BadInput, match=r"b\.mp4"):
            call(tmp_path / "out", make_video(tmp_path / "a.mp4", 50), tmp_path / "b.mp4")
        assert not (tmp_path / "out").exists()
        assert not segmenter.calls


def measure() -> None:
    """Run as a program: predict the video of the command line, print the most memory that it held, in KB."""
    made = BrightSegmenter()
    job.open_segmenter = lambda *_: made
    call(Path(sys.argv[2]), Path(sys.argv[1]), every_frame=sys.argv[3] or None, masks=sys.argv[4])
    # Not getrusage, whose maximum includes that of the process which started this one.
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(line.split()[1])


@pytest.mark.slow
@pytest.mark.parametrize(("every_frame", "masks"), [("", "png"), ("segment", "zarr"), ("interpolate", "coco")])
def test_memory_does_not_grow_with_the_length(tmp_path, every_frame, masks):
    used = {}
    for seconds in (20, 900):
        path = make_video(tmp_path / f"{seconds}.mp4", seconds * 5, fps=5)
        out = subprocess.run(
            [sys.executable, __file__, path, tmp_path / f"out-{seconds}", every_frame, masks],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin"},
        )
        used[seconds] = int(out.stdout.split()[-1])
    assert used[900] - used[20] < 60_000  # KB; its pictures and label maps are 120 MB, its sound is 150 MB


if __name__ == "__main__":
    measure()
