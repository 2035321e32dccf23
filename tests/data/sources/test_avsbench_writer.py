"""Trees that the AVSBench writer makes: laid out as published, and read back unchanged."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from combo_avs.data.clip import ClipSource
from combo_avs.data.sources.avsbench.source import AvsBenchSource
from combo_avs.data.sources.avsbench.writer import write_avsbench
from combo_avs.data.sources.synthetic.source import SyntheticSource
from combo_avs.errors import BadInput

SIZE = 48
CLIPS = 9


@pytest.fixture(scope="module")
def trees(tmp_path_factory) -> dict[str, tuple[ClipSource, Path]]:
    """subset -> (what was written, the folder); all in one folder, as in a complete AVSBench."""
    folder = tmp_path_factory.mktemp("avsbench")
    sources = {subset: SyntheticSource(subset, CLIPS, 0, SIZE) for subset in ("s4", "ms3", "avss")}
    for subset, source in sources.items():
        write_avsbench(source, folder, subset)
    return {subset: (source, folder) for subset, source in sources.items()}


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def lines(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_single_source_tree(trees):
    source, folder = trees["s4"]
    home = folder / "AVSBench_object" / "Single-source"
    expected = {"s4_meta_data.csv"}
    for clip in source.clips:
        place = f"{clip.split}/{clip.objects[0]}/{clip.id}"
        expected.add(f"s4_data/audio_wav/{place}.wav")
        expected |= {f"s4_data/visual_frames/{place}/{clip.id}_{k}.png" for k in range(1, 6)}
        last = 1 if clip.split == "train" else 5
        expected |= {f"s4_data/gt_masks/{place}/{clip.id}_{k}.png" for k in range(1, last + 1)}
    assert files_below(home) == expected
    rows = lines(home / "s4_meta_data.csv")
    assert rows[0] == ["name", "start", "category", "split"]
    assert rows[1:] == [[c.id, "0", c.objects[0], c.split] for c in source.clips]


def test_multi_source_tree(trees):
    source, folder = trees["ms3"]
    home = folder / "AVSBench_object" / "Multi-sources"
    expected = {"ms3_meta_data.csv"}
    for clip in source.clips:
        expected.add(f"ms3_data/audio_wav/{clip.split}/{clip.id}.wav")
        expected |= {f"ms3_data/visual_frames/{clip.id}/{clip.id}.mp4_{k}.png" for k in range(1, 6)}
        expected |= {f"ms3_data/gt_masks/{clip.split}/{clip.id}/{clip.id}_{k}.png" for k in range(1, 6)}
    assert files_below(home) == expected
    assert [row[:2] for row in lines(home / "ms3_meta_data.csv")[1:]] == [[c.id, c.split] for c in source.clips]


def test_semantic_tree(trees):
    source, folder = trees["avss"]
    home = folder / "AVSBench_semantic"
    expected = {"metadata.csv", "label2idx.json"}
    rows = lines(home / "metadata.csv")
    assert rows[0] == ["vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"]
    for clip, row in zip(source.clips, rows[1:], strict=True):
        t = clip.num_frames
        uid = clip.id if clip.subset == "v1m" else f"{clip.id}_0_{t * 1000}"
        assert row == [clip.id, uid, "0", "0", "_".join(clip.objects), clip.split, clip.subset]
        place = f"{clip.subset}/{uid}"
        expected.add(f"{place}/audio.wav")
        expected |= {f"{place}/frames/{k}.jpg" for k in range(t)}
        annotated = 1 if (clip.subset, clip.split) == ("v1s", "train") else t
        for labels in ("labels_semantic", "labels_rgb"):
            expected |= {f"{place}/{labels}/{k}.png" for k in range(annotated)}
    assert files_below(home) == expected
    numbers = json.loads((home / "label2idx.json").read_text())
    assert numbers == {name: value + 1 for value, name in enumerate(source.classes)}
    assert numbers["background"] == 1


def test_masks_of_the_object_subsets_are_grey_0_and_255(trees):
    for subset in ("s4", "ms3"):
        _, folder = trees[subset]
        values = set()
        for path in (folder / "AVSBench_object").rglob("gt_masks/**/*.png"):
            with Image.open(path) as image:
                assert image.mode == "L"
                values |= set(np.unique(np.asarray(image)).tolist())
        assert values == {0, 255}


def test_semantic_labels_are_indices_and_palette_colours(trees):
    source, folder = trees["avss"]
    colours = np.array(  # PASCAL-VOC's first seven
        [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128], [0, 128, 128]]
    )
    seen = set()
    for path in (folder / "AVSBench_semantic").rglob("labels_semantic/*.png"):
        with Image.open(path) as image:
            assert image.mode == "L"
            index = np.asarray(image)
        with Image.open(path.parents[1] / "labels_rgb" / path.name) as image:
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), colours[index])
        seen |= set(np.unique(index).tolist())
    assert seen == set(range(len(source.classes)))


def test_sound_is_16_bit_stereo_at_16_khz(trees):
    _, folder = trees["s4"]
    sounds = list(folder.rglob("*.wav"))
    assert len(sounds) == 3 * CLIPS
    for path in sounds:
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 2, "PCM_16")


@pytest.mark.parametrize("subset", ["s4", "ms3", "avss"])
def test_the_reader_gives_back_what_was_written(trees, subset):
    source, folder = trees[subset]
    reader = AvsBenchSource(folder, subset, SIZE)
    assert reader.classes == source.classes
    assert len(reader.clips) == CLIPS
    for clip, found in zip(source.clips, reader.clips, strict=True):
        assert found.source == clip.source
        for field in ("subset", "split", "frame_times", "frame_valid", "frame_annotated"):
            assert getattr(found, field) == getattr(clip, field)
        if subset != "ms3":  # its list names no objects
            assert found.objects == clip.objects
        written, read = source.read(clip), reader.read(found)
        assert np.array_equal(read.labels, written.labels)
        assert np.abs(read.waveform - written.waveform).max() <= 1 / 32768
        if subset == "avss":  # JPEG
            assert np.abs(read.frames.astype(int) - written.frames).mean() < 4
        else:
            assert np.array_equal(read.frames, written.frames)


def test_a_tree_that_was_read_can_be_written_again(trees, tmp_path):
    _, folder = trees["avss"]
    reader = AvsBenchSource(folder, "avss", SIZE)
    write_avsbench(reader, tmp_path, "avss")
    home = Path("AVSBench_semantic")
    assert files_below(tmp_path / home) == files_below(folder / home)
    assert lines(tmp_path / home / "metadata.csv") == lines(folder / home / "metadata.csv")


class Altered:
    """A source whose first clip has other fields."""

    def __init__(self, source: ClipSource, **changes) -> None:
        self.name, self.classes, self.read = source.name, source.classes, source.read
        self.clips = (replace(source.clips[0], **changes), *source.clips[1:])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"subset": "ms3"}, "belongs to ms3"),
        ({"objects": ()}, "needs one object"),
        ({"objects": ("dog", "car")}, "needs one object"),
        ({"id": "../../escape"}, "escape"),
        ({"objects": ("../dog",)}, "dog"),
    ],
)
def test_clips_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, changes, complaint):
    with pytest.raises(BadInput, match=complaint):
        write_avsbench(Altered(SyntheticSource("s4", 2, 0, SIZE), **changes), tmp_path, "s4")
    assert not list(tmp_path.iterdir())


def test_a_finished_tree_is_not_overwritten(trees):
    source, folder = trees["s4"]
    with pytest.raises(BadInput, match="is there already"):
        write_avsbench(source, folder, "s4")


def test_an_unknown_subset_is_refused(tmp_path):
    with pytest.raises(BadInput, match="unknown AVSBench subset 's5'"):
        write_avsbench(SyntheticSource("s4", 1, 0, SIZE), tmp_path, "s5")
