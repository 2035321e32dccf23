"""Label maps of AVSBench: every coding that real files have, and what no label can be."""

from pathlib import Path

import numpy as np
import pytest
from avsbench_tree import AVSS_ROWS, S4_ROWS, SIZE, index_map, make_avss, make_s4, mask, save
from PIL import Image

from combo_avs.data.resize import fit_squash
from combo_avs.data.sources.avsbench.labels import colour_labels, voc_palette
from combo_avs.data.sources.avsbench.source import AvsBenchSource
from combo_avs.errors import BadInput, ClipError


@pytest.fixture
def s4(tmp_path: Path) -> Path:
    return make_s4(tmp_path, S4_ROWS)


@pytest.fixture
def avss(tmp_path: Path) -> Path:
    return make_avss(tmp_path, AVSS_ROWS)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P"])
def test_binary_masks_of_any_mode(s4, mode):
    save(s4 / "s4_data/gt_masks/val/dog_barking/_bbbbbbbbb_/_bbbbbbbbb__3.png", mask(7), mode)
    source = AvsBenchSource(s4, "s4", SIZE)
    assert np.array_equal(source.read(source.clips[1]).labels[2], mask(7) // 255)


def test_masks_in_between_are_cut_at_half(s4):
    pixels = np.full((SIZE, SIZE), 127, np.uint8)
    pixels[3] = 128
    save(s4 / "s4_data/gt_masks/val/dog_barking/_bbbbbbbbb_/_bbbbbbbbb__3.png", pixels)
    source = AvsBenchSource(s4, "s4", SIZE)
    assert np.array_equal(source.read(source.clips[1]).labels[2], pixels == 128)


def test_a_mask_of_ones_is_understood_with_a_warning(s4):
    save(s4 / "s4_data/gt_masks/val/dog_barking/_bbbbbbbbb_/_bbbbbbbbb__3.png", mask(7) // 255)
    source = AvsBenchSource(s4, "s4", SIZE)
    with pytest.warns(UserWarning, match="0 and 1"):
        labels = source.read(source.clips[1]).labels
    assert np.array_equal(labels[2], mask(7) // 255)


def test_a_mask_that_would_vanish_is_refused(s4):
    save(s4 / "s4_data/gt_masks/val/dog_barking/_bbbbbbbbb_/_bbbbbbbbb__3.png", mask(7) // 255 * 38)
    source = AvsBenchSource(s4, "s4", SIZE)
    with pytest.raises(ClipError, match=r"_bbbbbbbbb__3\.png.*38"):
        source.read(source.clips[1])


def test_an_empty_mask_is_a_label(s4):
    save(s4 / "s4_data/gt_masks/val/dog_barking/_bbbbbbbbb_/_bbbbbbbbb__3.png", mask(-1))
    source = AvsBenchSource(s4, "s4", SIZE)
    assert not source.read(source.clips[1]).labels[2].any()


def test_palette_is_pascal_voc():
    palette = voc_palette(71).tolist()
    assert palette[:4] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert palette[8] == [64, 0, 0]
    assert palette[70] == [32, 128, 128]  # 0b1000110: the top bits of green and blue, the third bit of red
    assert len({tuple(c) for c in palette}) == 71


def test_colour_look_up_equals_comparing_with_every_class():
    index = index_map(3, (50, 70))
    rgb = voc_palette(71)[index]
    slow = np.zeros(index.shape, np.uint8)
    for k, colour in enumerate(voc_palette(71)):
        slow[(rgb == colour).all(axis=-1)] = k
    assert np.array_equal(colour_labels(rgb, 71), slow)


def test_semantic_labels_may_have_a_palette(avss):
    image = Image.fromarray(index_map(5, (20, 31))).convert("L")
    indexed = Image.frombytes("P", image.size, image.tobytes())
    indexed.putpalette(voc_palette(71).tobytes())
    indexed.save(avss / "v1s/-bbbbbbbbbb_0_5000/labels_semantic/2.png")
    source = AvsBenchSource(avss, "avss", SIZE)
    expected = fit_squash(index_map(5, (20, 31)), SIZE, nearest=True)
    assert np.array_equal(source.read(source.clips[1]).labels[2], expected)


def test_a_label_out_of_range_names_file_and_value(avss):
    pixels = index_map(0, (20, 31))
    pixels[4, 4] = 71
    save(avss / "v1s/-bbbbbbbbbb_0_5000/labels_semantic/2.png", pixels)
    source = AvsBenchSource(avss, "avss", SIZE)
    with pytest.raises(ClipError, match=r"-bbbbbbbbbb_0_5000'.*labels_semantic/2\.png.*value 71"):
        source.read(source.clips[1])
    source.read(source.clips[2])


def test_an_unknown_colour_names_file_and_colour(tmp_path):
    folder = make_avss(tmp_path, AVSS_ROWS, coding="rgb")
    pixels = voc_palette(71)[index_map(0, (20, 31))]
    pixels[4, 4] = (1, 2, 3)
    save(folder / "v1s/-bbbbbbbbbb_0_5000/labels_rgb/2.png", pixels)
    source = AvsBenchSource(folder, "avss", SIZE)
    with pytest.raises(ClipError, match=r"labels_rgb/2\.png.*\(1, 2, 3\)"):
        source.read(source.clips[1])


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[1, 2]",
        '{"background": 0, "dog": 1}',
        '{"dog": 1, "background": 2}',
        '{"background": 1, "dog": 3}',
        '{"background": 1, "dog": "2"}',
        "{}",
    ],
)
def test_label2idx_must_count_from_one(avss, content):
    (avss / "label2idx.json").write_text(content)
    with pytest.raises(BadInput, match=r"label2idx\.json"):
        AvsBenchSource(avss, "avss", SIZE)


def test_label2idx_must_be_there(avss):
    (avss / "label2idx.json").unlink()
    with pytest.raises(BadInput, match=r"label2idx\.json is missing"):
        AvsBenchSource(avss, "avss", SIZE)
