"""The source-aware splits: no video on both sides, test as it is, and the files where the official splits put them."""

import csv

import numpy as np
import pytest
from avsbench_tree import AVSS_ROWS, SIZE, make_avss, make_ms3
from hypothesis import given
from hypothesis import strategies as st

from combo_avs.data.clip import SPLITS, Clip
from combo_avs.data.sources.avsbench.source import AvsBenchSource
from combo_avs.data.sources.avsbench.source_videos import shared_sources, source_aware
from combo_avs.errors import BadInput

ROWS = [  # video a: test and train; b: val and train; c: test and val; d: train alone; e: test alone
    ("aaaaaaaaaaa_0", "train"),
    ("aaaaaaaaaaa_1", "test"),
    ("bbbbbbbbb_b_0", "train"),
    ("bbbbbbbbb_b_1", "val"),
    ("ccccccccccc_0", "val"),
    ("ccccccccccc_1", "test"),
    ("ddddddddddd_0", "train"),
    ("eeeeeeeeeee", "test"),
]


def make_clip(k: int, split: str, source: str) -> Clip:
    times = (0.0,) * 5
    return Clip(f"clip-{k}", "ms3", split, (), times, (True,) * 5, (True,) * 5, source)


def test_what_splits_share_is_counted_by_video(tmp_path):
    clips = AvsBenchSource(make_ms3(tmp_path, ROWS), "ms3", SIZE).clips
    assert shared_sources(clips) == {
        ("test", "train"): ["aaaaaaaaaaa_1"],
        ("test", "val"): ["ccccccccccc_1"],
        ("val", "train"): ["bbbbbbbbb_b_1"],
    }


def test_source_aware_leaves_out_what_leaks_and_nothing_else(tmp_path):
    folder = make_ms3(tmp_path, ROWS)
    official = AvsBenchSource(folder, "ms3", SIZE)
    aware = AvsBenchSource(folder, "ms3", SIZE, split="source-aware")
    kept = [(c.id, c.split) for c in aware.clips]
    assert kept == [row for row in ROWS if row[0] not in ("aaaaaaaaaaa_0", "bbbbbbbbb_b_0", "ccccccccccc_0")]
    by_id = {c.id: c for c in official.clips}
    for clip in aware.clips:
        assert clip == by_id[clip.id]
        assert np.array_equal(aware.read(clip).labels, official.read(clip).labels)


def test_stores_of_the_two_cannot_be_mistaken_and_official_ones_stay_as_they_are(tmp_path):
    folder = make_avss(tmp_path, AVSS_ROWS)
    official, aware = (AvsBenchSource(folder, "avss", SIZE, split=s) for s in ("official", "source-aware"))
    assert official.name == "avsbench-avss"
    assert "split" not in official.parameters
    assert aware.parameters == official.parameters | {"split": "source-aware"}
    assert aware.name != official.name
    assert aware.name.rsplit("-", 1)[-1] == "avss"  # training checks presets against this


def test_clips_that_are_left_out_need_no_files(tmp_path):
    folder = make_ms3(tmp_path, ROWS)
    (folder / "ms3_data/audio_wav/train/aaaaaaaaaaa_0.wav").unlink()
    with pytest.raises(BadInput, match="aaaaaaaaaaa_0"):
        AvsBenchSource(folder, "ms3", SIZE)
    assert len(AvsBenchSource(folder, "ms3", SIZE, split="source-aware").clips) == 5


def test_unknown_splits_are_refused(tmp_path):
    with pytest.raises(BadInput, match="official and source-aware"):
        AvsBenchSource(make_ms3(tmp_path, ROWS), "ms3", SIZE, split="random")


@given(st.lists(st.tuples(st.sampled_from(SPLITS), st.sampled_from("abcde")), max_size=30))
def test_no_video_crosses_and_test_stays_whole(rows):
    clips = [make_clip(k, split, source) for k, (split, source) in enumerate(rows)]
    kept = source_aware(clips)
    assert shared_sources(kept) == {}
    assert [c for c in kept if c.split == "test"] == [c for c in clips if c.split == "test"]
    assert {c.source for c in kept} == {c.source for c in clips}  # no video is lost
    assert source_aware(kept) == kept


def test_official_ms3(tmp_path, real_clips):
    """The counts of the official list: 38 of 64 test clips show a video of train."""
    listed = real_clips / "metadata" / "avsbench_semantic_metadata.csv"
    from combo_avs.data.sources.avsbench.layout import SUBSETS, read_clips

    with listed.open(newline="") as file:
        rows = [f"{row['vid']},{row['split']}\n" for row in csv.DictReader(file) if row["label"] == "v1m"]
    (tmp_path / "ms3_meta_data.csv").write_text("video_id,split\n" + "".join(rows))
    clips = read_clips(tmp_path / "ms3_meta_data.csv", SUBSETS["ms3"])
    assert {pair: len(ids) for pair, ids in shared_sources(clips).items()} == {
        ("test", "train"): 38,
        ("test", "val"): 21,
        ("val", "train"): 41,
    }
    kept = source_aware(clips)
    assert [sum(c.split == split for c in kept) for split in SPLITS] == [180, 43, 64]
