"""Mask arithmetic against per-pixel rules."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from combo_avs.data.masks import (
    MASK_STATS,
    ascending_areas,
    colour_index,
    fold_masks,
    pack_masks,
    pack_stats,
    paint,
    unpack_masks,
    unpack_stats,
)
from combo_avs.data.palette import PALETTE

stacks = hnp.arrays(np.bool_, st.tuples(st.integers(0, 12), st.integers(1, 9), st.integers(1, 11)))


def slow_fold(masks: np.ndarray) -> np.ndarray:
    """Pixel by pixel: the rank of the smallest mask that covers it."""
    order = sorted(range(len(masks)), key=lambda k: masks[k].sum())  # stable
    index = np.zeros(masks.shape[1:], int)
    for pixel in np.ndindex(index.shape):
        index[pixel] = next((rank for rank, k in enumerate(order, 1) if masks[k][pixel]), 0)
    return index


@given(stacks)
def test_fold_follows_the_rule(masks):
    folded = fold_masks(masks)
    assert folded.dtype == np.uint8
    assert np.array_equal(folded, slow_fold(masks))


def test_equal_areas_keep_their_order():
    masks = np.zeros((3, 1, 4), bool)
    masks[0, 0, 1:3] = masks[1, 0, 2:4] = masks[2, 0, 0:2] = True
    assert fold_masks(masks).tolist() == [[3, 1, 1, 2]]


def test_an_empty_mask_takes_a_rank():
    masks = np.zeros((2, 1, 2), bool)
    masks[0, 0, 0] = True
    assert fold_masks(masks).tolist() == [[2, 0]]


@pytest.fixture
def many_masks() -> np.ndarray:
    """300 masks, number k covers the first k + 1 pixels: pixel k shows rank k + 1."""
    return np.arange(300)[None, None, :] <= np.arange(300)[:, None, None]


def test_ranks_beyond_the_palette(many_masks):
    ranks = np.arange(1, 301)
    assert np.array_equal(fold_masks(many_masks)[0], np.minimum(ranks, 255))


def test_palette():
    assert PALETTE.shape == (256, 3)
    assert PALETTE[[0, 1, 149]].tolist() == [[120, 120, 120], [180, 120, 120], [92, 0, 255]]
    assert hashlib.sha256(PALETTE.tobytes()).hexdigest().startswith("66ff528b08254f9c")
    assert PALETTE[6].tolist() == PALETTE[48].tolist() == [140, 140, 140]
    assert np.array_equal(PALETTE[150:], np.repeat(np.arange(150, 256)[:, None], 3, axis=1))


def test_colour_index_looks_every_entry_up():
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    coloured = colour_index(index)
    assert coloured.dtype == np.uint8
    assert np.array_equal(coloured.reshape(256, 3), PALETTE)


def test_a_maskige_shows_ranks_in_colours():
    masks = np.zeros((2, 2, 3), bool)
    masks[0, :, :2] = masks[1, 0, 1] = True
    expected = PALETTE[[[2, 1, 0], [2, 2, 0]]]
    assert np.array_equal(colour_index(fold_masks(masks)), expected)
    assert np.array_equal(colour_index(fold_masks(masks[:0])), np.full((2, 3, 3), 120))


@given(stacks)
def test_packing_round_trip(masks):
    k, height, width = masks.shape
    data = pack_masks(masks)
    assert len(data) == k * ((height * width + 7) // 8)
    unpacked = unpack_masks(data, height, width)
    assert unpacked.dtype == np.bool_
    assert np.array_equal(unpacked, masks)


def test_packed_bits_are_where_the_format_says():
    masks = np.zeros((2, 3, 3), bool)
    masks[0, 0, 0] = masks[1, 2, 2] = True
    assert pack_masks(masks) == bytes([0x80, 0x00, 0x00, 0x80])


def test_packing_takes_views():
    masks = np.random.default_rng(0).random((5, 12, 10)) < 0.5
    view = masks[::2, ::-1, 1::3]
    assert np.array_equal(unpack_masks(pack_masks(view), *view.shape[1:]), view)
    assert np.array_equal(fold_masks(view), fold_masks(view.copy()))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="3 x 3"):
        unpack_masks(bytes(3), 3, 3)
    with pytest.raises(ValueError, match="0 x 5"):
        unpack_masks(b"", 0, 5)
    with pytest.raises(ValueError, match="uint8"):
        pack_masks(np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(ValueError, match="bool"):
        fold_masks(np.zeros((2, 2), bool))


def test_statistics_round_trip():
    data = pack_stats(
        np.array([7, 50_176]),
        np.array([[1, 2, 3, 4], [0, 0, 223, 223]]),
        np.array([0.5, 1.25], np.float32),
        np.array([0.25, 1.0], np.float32),
        np.array([[1.5, 2.5], [111.0, 112.0]], np.float32),
    )
    assert len(data) == 2 * 36
    assert data[:4] == (7).to_bytes(4, "little")
    records = unpack_stats(data)
    assert records.dtype == MASK_STATS
    assert records["area"].tolist() == [7, 50_176]
    assert records["box"].tolist() == [[1, 2, 3, 4], [0, 0, 223, 223]]
    assert records["predicted_iou"].tolist() == [0.5, 1.25]
    assert records["stability"].tolist() == [0.25, 1.0]
    assert records["point"].tolist() == [[1.5, 2.5], [111.0, 112.0]]


def test_no_statistics():
    assert len(unpack_stats(b"")) == 0
    none = np.zeros(0)
    assert pack_stats(none, np.zeros((0, 4)), none, none, np.zeros((0, 2))) == b""


def test_wrong_statistics_are_refused():
    with pytest.raises(ValueError, match="35 bytes"):
        unpack_stats(bytes(35))
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        pack_stats(np.zeros(2), np.zeros((1, 4)), np.zeros(2), np.zeros(2), np.zeros((2, 2)))


def test_paint_keeps_order_and_index_apart():
    masks = np.zeros((3, 1, 4), bool)
    masks[0, 0, :2] = masks[1, 0, 1:3] = masks[2, 0, :] = True
    assert paint(masks, np.array([1, 0, 2]), np.array([7, 255, 9])).tolist() == [[7, 255, 255, 9]]
    assert paint(masks[:0], np.array([], int), np.array([], int)).tolist() == [[0, 0, 0, 0]]


def test_ascending_areas():
    masks = np.zeros((4, 1, 3), bool)
    masks[0] = masks[2, 0, 0] = masks[3, 0, 2] = True
    assert ascending_areas(masks).tolist() == [1, 2, 3, 0]
