"""AVSBench folders that are refused, and clips that cannot be read."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from avsbench_tree import AVSS_ROWS, MS3_ROWS, S4_ROWS, SIZE, make_avss, make_ms3, make_s4, picture, sound
from PIL import Image

from combo_avs.data.sources.avsbench.layout import safe_name
from combo_avs.data.sources.avsbench.source import AvsBenchSource
from combo_avs.errors import BadInput, ClipError

HOSTILE = [
    "..",
    ".",
    "../../etc",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:\\x",
    "C:x",
    "a\0b",
    "",
    "a\nb",
    "x" * 300,
]


@pytest.fixture
def s4(tmp_path: Path) -> Path:
    return make_s4(tmp_path, S4_ROWS)


@pytest.fixture
def avss(tmp_path: Path) -> Path:
    return make_avss(tmp_path, AVSS_ROWS)


def refusal(folder: Path, subset: str = "s4", size: int = SIZE) -> str:
    with pytest.raises(BadInput) as caught:
        AvsBenchSource(folder, subset, size)
    return str(caught.value)


def test_not_found_says_what_was_looked_for(tmp_path):
    message = refusal(tmp_path, "s4")
    assert str(tmp_path / "AVSBench_object" / "Single-source" / "s4_meta_data.csv") in message
    assert str(tmp_path / "s4_meta_data.csv") in message
    assert "metadata.csv" in refusal(tmp_path / "nowhere", "avss")


def test_unknown_subset_and_size(s4):
    assert "'s5'" in refusal(s4, "s5")
    assert "0 pixels" in refusal(s4, "s4", 0)


@pytest.mark.parametrize("column", ["vid", "uid", "a_obj", "split", "label"])
def test_a_missing_column_is_named(avss, column):
    text = (avss / "metadata.csv").read_text()
    (avss / "metadata.csv").write_text(text.replace(column, "other", 1))
    message = refusal(avss, "avss")
    assert "metadata.csv" in message
    assert f"no column {column};" in message


def test_every_wrong_row_is_listed(avss):
    more = [
        "fffffffffff,fffffffffff_0_5000,0,0,dog,trian,v1s",
        "fffffffffff,fffffffffff_0_5000,0,0,dog,train,v3",
        "ddddddddddd,ddddddddddd_68000_78000,0,0,dog,train,v1s",
        "too,short",
    ]
    (avss / "metadata.csv").write_text((avss / "metadata.csv").read_text() + "\n" + "\n".join(more))
    message = refusal(avss, "avss")
    for part in (
        "line 7: clip 'fffffffffff_0_5000': split 'trian'",
        "line 8",
        "'v3'",
        "listed in line 5",
        "line 10",
    ):
        assert part in message


@pytest.mark.parametrize("content", [b"", b"name,start,category,split\n", b"\xff\xfe\x00garbage", b'name,"open\n'])
def test_unreadable_and_empty_lists(s4, content):
    (s4 / "s4_meta_data.csv").write_bytes(content)
    assert "s4_meta_data.csv" in refusal(s4)


@pytest.mark.parametrize("value", HOSTILE)
def test_names_that_could_leave_the_folder_are_refused(value):
    with pytest.raises(BadInput, match=r"list\.csv line 3: column 'uid'"):
        safe_name(value, "list.csv line 3", "column 'uid'")


@pytest.mark.parametrize("value", ["-OffILgY7Y4", "__GOGlHL23s", "horse_clip-clop", "aaaaaaaaaaa_0_5000"])
def test_real_names_are_accepted(value):
    assert safe_name(value, "list.csv", "name") == value


@pytest.mark.parametrize("value", ["../../x", "/etc", "C:x", "a\\..\\b"])
def test_hostile_names_in_every_list(tmp_path, value):
    s4 = make_s4(tmp_path, S4_ROWS)
    for row in (f"{value},0,dog_barking,test", f"ggggggggggg,0,{value},test"):
        (s4 / "s4_meta_data.csv").write_text("name,start,category,split\n" + row)
        assert "not a plain file name" in refusal(s4)
    ms3 = make_ms3(tmp_path, MS3_ROWS)
    (ms3 / "ms3_meta_data.csv").write_text(f"id,split\n{value},test\n")
    assert "not a plain file name" in refusal(ms3, "ms3")
    avss = make_avss(tmp_path, AVSS_ROWS)
    (avss / "metadata.csv").write_text(f"vid,uid,a_obj,split,label\naaaaaaaaaaa,{value},dog,test,v2\n")
    assert "not a plain file name" in refusal(avss, "avss")
    (avss / "metadata.csv").write_text(f"vid,uid,a_obj,split,label\naaaaaaaaaaa,aaaaaaaaaaa,dog,test,{value}\n")
    assert "none of v1s, v1m, v2" in refusal(avss, "avss")


def test_everything_wrong_is_reported_at_once(s4):
    data = s4 / "s4_data"
    (data / "visual_frames/train/dog_barking/-aaaaaaaaaa/-aaaaaaaaaa_3.png").unlink()
    (data / "gt_masks/val/dog_barking/_bbbbbbbbb_/_bbbbbbbbb__5.png").unlink()
    (data / "audio_wav/test/race_car/ccccccccccc.wav").unlink()
    picture(data / "visual_frames/test/race_car/ccccccccccc/ccccccccccc_2.png", 0, (SIZE, SIZE + 2))
    picture(data / "visual_frames/test/race_car/ccccccccccc/ccccccccccc_6.png", 0)
    message = refusal(s4)
    assert "lists (5):" in message
    assert "clip '-aaaaaaaaaa'" in message
    assert "-aaaaaaaaaa_3.png is missing" in message
    assert "_bbbbbbbbb__5.png is missing" in message
    assert "ccccccccccc.wav is missing" in message
    assert "ccccccccccc_2.png is 16 x 18 (height x width); expected 16 x 16" in message
    assert "ccccccccccc_6.png" in message


def test_frames_of_another_size_than_asked_for(s4):
    assert "is 16 x 16 (height x width); expected 224 x 224" in refusal(s4, "s4", 224)


def test_a_missing_clip_is_reported_whatever_else_is_there(s4):
    shutil.rmtree(s4 / "s4_data/visual_frames/test/race_car/ccccccccccc")
    assert "ccccccccccc_1.png is missing, and 4 more pictures" in refusal(s4)


@pytest.mark.parametrize(
    ("file", "pixels"),
    [
        ("frames/0.jpg", None),
        ("frames/0.jpg", np.zeros((20, 31), np.uint16)),
        ("labels_semantic/0.png", np.zeros((20, 31, 3), np.uint8)),
        ("labels_semantic/0.png", np.zeros((20, 31), np.uint16)),
        ("labels_semantic/0.png", np.zeros((31, 20), np.uint8)),
        ("labels_semantic/0.png", None),
    ],
)
def test_pictures_of_the_wrong_kind(avss, file, pixels):
    path = avss / "v2/eeeeeeeeeee_0_10000" / file
    if pixels is None:
        path.write_bytes(b"no picture")
    else:
        Image.fromarray(pixels).save(path, "PNG")
    message = refusal(avss, "avss")
    assert "lists (1):" in message
    assert str(path) in message


def test_huge_pictures_are_refused_by_their_header(avss):
    path = avss / "v2/eeeeeeeeeee_0_10000/frames/0.jpg"
    Image.new("1", (9_000, 9_000)).save(path, "PNG")
    assert "9000 x 9000 pixels" in refusal(avss, "avss")


def test_unreadable_sound_and_float_sound(s4):
    sound(s4 / "s4_data/audio_wav/test/race_car/ccccccccccc.wav", subtype="FLOAT")
    source = AvsBenchSource(s4, "s4", SIZE)
    with pytest.warns(UserWarning, match="float WAV"):
        assert np.abs(source.read(source.clips[2]).waveform).max() > 0.05
    (s4 / "s4_data/audio_wav/test/race_car/ccccccccccc.wav").write_bytes(b"no sound")
    assert "ccccccccccc.wav" in refusal(s4)


@pytest.mark.parametrize("seconds", [0.01, 4.7, 7.0])
def test_sound_of_any_length_is_read_as_it_is(s4, seconds):
    sound(s4 / "s4_data/audio_wav/test/race_car/ccccccccccc.wav", seconds)
    source = AvsBenchSource(s4, "s4", SIZE)
    assert source.read(source.clips[2]).waveform.shape == (int(seconds * 16_000),)


def test_damage_behind_a_good_header_quarantines_one_clip(s4):
    path = s4 / "s4_data/visual_frames/test/race_car/ccccccccccc/ccccccccccc_4.png"
    path.write_bytes(path.read_bytes()[:200])
    source = AvsBenchSource(s4, "s4", SIZE)
    with pytest.raises(ClipError, match=r"'ccccccccccc'.*ccccccccccc_4\.png"):
        source.read(source.clips[2])
    source.read(source.clips[0])


def test_files_that_vanish_or_change_after_the_check(s4):
    source = AvsBenchSource(s4, "s4", SIZE)
    picture(s4 / "s4_data/visual_frames/test/race_car/ccccccccccc/ccccccccccc_4.png", 0, (SIZE, 9))
    with pytest.raises(ClipError, match="expected 16 x 16"):
        source.read(source.clips[2])
    (s4 / "s4_data/audio_wav/val/dog_barking/_bbbbbbbbb_.wav").unlink()
    with pytest.raises(ClipError, match=r"_bbbbbbbbb_\.wav"):
        source.read(source.clips[1])
