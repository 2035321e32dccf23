"""What the readers of AVSBench give, on small folders and on real clips."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from avsbench_tree import (
    AVSS_ROWS,
    CLASSES,
    MS3_ROWS,
    S4_ROWS,
    SIZE,
    index_map,
    make_avss,
    make_ms3,
    make_s4,
    mask,
)
from contracts import ClipSourceContract
from PIL import Image

from combo_avs.base import IGNORE_LABEL
from combo_avs.data.resize import fit_crop, fit_squash
from combo_avs.data.sources.avsbench.source import AvsBenchSource


class TestAvsBenchSourceContract(ClipSourceContract):
    @pytest.fixture(params=["s4", "ms3", "avss"])
    def source(self, request, tmp_path):
        make, rows = {"s4": (make_s4, S4_ROWS), "ms3": (make_ms3, MS3_ROWS), "avss": (make_avss, AVSS_ROWS)}[
            request.param
        ]
        return AvsBenchSource(make(tmp_path / "data", rows), request.param, SIZE)

    @pytest.fixture
    def unreadable(self, tmp_path):
        folder = make_ms3(tmp_path, MS3_ROWS)
        source = AvsBenchSource(folder, "ms3", SIZE)
        path = next(folder.rglob("*.mp4_1.png"))
        path.write_bytes(path.read_bytes()[:-40])
        return source, next(clip for clip in source.clips if path.name.startswith(clip.id))


@pytest.fixture
def s4(tmp_path: Path) -> Path:
    return make_s4(tmp_path, S4_ROWS)


@pytest.fixture
def avss(tmp_path: Path) -> Path:
    return make_avss(tmp_path, AVSS_ROWS)


def test_s4_clips(s4):
    source = AvsBenchSource(s4, "s4", SIZE)
    assert [c.id for c in source.clips] == [name for name, _, _ in S4_ROWS]
    assert [c.split for c in source.clips] == ["train", "val", "test"]
    assert [c.objects for c in source.clips] == [("dog_barking",), ("dog_barking",), ("race_car",)]
    assert [sum(c.frame_annotated) for c in source.clips] == [1, 5, 5]
    assert source.clips[0].frame_annotated[0]
    for clip in source.clips:
        assert clip.subset == "s4"
        assert clip.source == clip.id
        assert all(clip.frame_valid)
        assert clip.frame_times == (0.9375, 1.9375, 2.9375, 3.9375, 4.9375)
    assert source.name == "avsbench-s4"
    assert source.classes == ("background", "sounding")
    assert source.size == (SIZE, SIZE)
    assert source.short_audio == "repeat_last"


def test_s4_arrays(s4):
    source = AvsBenchSource(s4, "s4", SIZE)
    train, val, _ = (source.read(c) for c in source.clips)
    for k in range(5):
        file = s4 / f"s4_data/visual_frames/val/dog_barking/_bbbbbbbbb_/_bbbbbbbbb__{k + 1}.png"
        assert np.array_equal(val.frames[k], np.asarray(Image.open(file)))
        assert np.array_equal(val.labels[k], mask(k + 1) // 255)
    assert np.array_equal(train.labels[0], mask(1) // 255)
    assert (train.labels[1:] == IGNORE_LABEL).all()
    assert train.frames.dtype == train.labels.dtype == np.uint8
    assert train.waveform.shape == (80_000,)


def test_ms3(tmp_path):
    source = AvsBenchSource(make_ms3(tmp_path, MS3_ROWS), "ms3", SIZE)
    assert [c.id for c in source.clips] == [name for name, _ in MS3_ROWS]
    assert [c.source for c in source.clips] == ["_aaaaaaaaaa", "bbbbbbbbb_b", "baby_dog_2_1", "bbbbbbbbb_b"]
    for clip in source.clips:
        assert clip.subset == "ms3"
        assert all(clip.frame_annotated)
        assert np.array_equal(source.read(clip).labels, np.stack([mask(k) // 255 for k in range(1, 6)]))
    assert source.short_audio == "repeat_last"


@pytest.mark.parametrize("header", ["", "anything,whatever\n", "\ufeffvideo,split\n"])
def test_ms3_columns_go_by_position(tmp_path, header):
    source = AvsBenchSource(make_ms3(tmp_path, MS3_ROWS, header), "ms3", SIZE)
    assert [(c.id, c.split) for c in source.clips] == MS3_ROWS


def test_avss_clips(avss):
    source = AvsBenchSource(avss, "avss", SIZE)
    assert source.classes == CLASSES
    assert source.short_audio == "zero_log_mel"
    assert [c.id for c in source.clips] == [row[0] for row in AVSS_ROWS]
    assert [c.subset for c in source.clips] == ["v1s", "v1s", "v1m", "v2", "v2"]
    assert [c.num_frames for c in source.clips] == [5, 5, 5, 10, 10]
    assert [sum(c.frame_annotated) for c in source.clips] == [1, 5, 5, 10, 10]
    assert [c.source for c in source.clips] == [row[0][:11] for row in AVSS_ROWS]
    assert [c.objects for c in source.clips] == [
        ("h orse",),
        ("dog",),
        ("background",),
        ("man", "off-the-screen", "guitar"),
        ("emergency-car",),
    ]


@pytest.mark.parametrize("coding", ["semantic", "rgb"])
def test_avss_is_cropped_for_training_and_squashed_for_scoring(tmp_path, coding):
    folder = make_avss(tmp_path, AVSS_ROWS, coding=coding)
    source = AvsBenchSource(folder, "avss", SIZE)
    for clip in source.clips:
        fit = fit_crop if clip.split == "train" else fit_squash
        arrays = source.read(clip)
        for k in range(clip.num_frames):
            frame = np.asarray(Image.open(folder / clip.subset / clip.id / f"frames/{k}.jpg"))
            assert np.array_equal(arrays.frames[k], fit(frame, SIZE, nearest=False))
            if clip.frame_annotated[k]:
                assert np.array_equal(arrays.labels[k], fit(index_map(k, (20, 31)), SIZE, nearest=True))
            else:
                assert (arrays.labels[k] == IGNORE_LABEL).all()


def test_stores_of_tall_pictures_say_in_which_order_they_were_resized(tmp_path):
    folder = make_avss(tmp_path, AVSS_ROWS)
    parameters = AvsBenchSource(folder, "avss", SIZE).parameters
    crop = {"reader": 1, "subset": "avss", "size": SIZE, "resize": "crop for train, squash for val and test"}
    assert parameters == crop  # wide ones are as ever, and so are the fingerprints of their stores
    for path in (*folder.rglob("frames/3.jpg"), *folder.rglob("labels_*/3.png")):
        with Image.open(path) as image:
            turned = image.transpose(Image.Transpose.ROTATE_90)
        turned.save(path)
    assert AvsBenchSource(folder, "avss", SIZE).parameters == crop | {"resize_order": "width, then height"}


@pytest.mark.parametrize("subset", ["s4", "ms3", "avss"])
def test_any_folder_on_the_way_may_be_named(tmp_path, subset):
    make = {"s4": make_s4, "ms3": make_ms3, "avss": make_avss}[subset]
    folder = make(tmp_path, {"s4": S4_ROWS, "ms3": MS3_ROWS, "avss": AVSS_ROWS}[subset])
    while folder != tmp_path.parent:
        assert isinstance(AvsBenchSource(folder, subset, SIZE), AvsBenchSource)
        folder = folder.parent


def test_hidden_files_and_stray_folders_change_nothing(s4):
    frames = s4 / "s4_data/visual_frames/train/dog_barking/-aaaaaaaaaa"
    (frames / ".DS_Store").write_bytes(b"x")
    (frames / "._-aaaaaaaaaa_1.png").write_bytes(b"x")
    (frames.parent / ".DS_Store").write_bytes(b"x")
    (frames.parent / "half_extracted").mkdir()
    assert len(AvsBenchSource(s4, "s4", SIZE).clips) == 3


def test_columns_of_s4_go_by_name(s4):
    rows = "".join(f"{s},{c},x,{n}\r\n" for n, c, s in S4_ROWS)
    (s4 / "s4_meta_data.csv").write_text("\ufeffsplit,category,more,name\r\n\r\n" + rows)
    assert [c.id for c in AvsBenchSource(s4, "s4", SIZE).clips] == [n for n, _, _ in S4_ROWS]


def test_fingerprint_parameters_tell_what_changes_the_arrays(s4, tmp_path):
    folder = make_avss(tmp_path, AVSS_ROWS)
    parameters = [AvsBenchSource(folder, "avss", size).parameters for size in (SIZE, SIZE, SIZE + 1)]
    parameters.append(AvsBenchSource(s4, "s4", SIZE).parameters)
    texts = [json.dumps(p, sort_keys=True) for p in parameters]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3
    assert str(tmp_path) not in "".join(texts)


@pytest.fixture(scope="module")
def samples(real_clips: Path) -> Path:
    return real_clips / "mini_avsbench"


@pytest.mark.parametrize(("subset", "count"), [("s4", 4), ("ms3", 5), ("avss", 10)])
def test_real_clips(samples, subset, count):
    source = AvsBenchSource(samples, subset)
    assert len(source.clips) == count
    for clip in source.clips:
        arrays = source.read(clip)
        assert arrays.frames.shape == (clip.num_frames, 224, 224, 3)
        assert arrays.frames.std() > 10
        assert abs(len(arrays.waveform) / 16_000 - clip.num_frames) < 0.1
        annotated = np.array(clip.frame_annotated)
        assert (arrays.labels[annotated] < len(source.classes)).all()
        assert (arrays.labels[~annotated] == IGNORE_LABEL).all()


def test_real_labels_are_the_same_by_index_and_by_colour(samples, tmp_path):
    by_index = AvsBenchSource(samples, "avss")
    copy = tmp_path / "AVSBench_semantic"
    shutil.copytree(samples / "AVSBench_semantic", copy, ignore=shutil.ignore_patterns("labels_semantic"))
    by_colour = AvsBenchSource(copy, "avss")
    for a, b in zip(by_index.clips, by_colour.clips, strict=True):
        assert np.array_equal(by_index.read(a).labels, by_colour.read(b).labels)
        named = {by_index.classes[k] for k in np.unique(by_index.read(a).labels) if k not in (0, IGNORE_LABEL)}
        assert named <= set(a.objects)
