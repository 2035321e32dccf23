"""Label maps between two times, and at another size."""

import numpy as np
import pytest

from combo_avs.pipeline.predict.resample import hold_labels, interpolate_labels, resize_labels
from combo_avs.pipeline.predict.timeline import Timeline


def square(top: int, left: int, side: int = 20, label: int = 1) -> np.ndarray:
    labels = np.zeros((60, 60), np.uint8)
    labels[top : top + side, left : left + side] = label
    return labels


def middle(labels: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(labels)
    return rows.mean(), columns.mean()


def test_a_map_is_held_until_the_next_ones_turn():
    maps = [square(k, k) for k in range(3)]
    at = hold_labels([(k + 0.75, m) for k, m in enumerate(maps)], lead=0.75)
    assert [at(time) is maps[k] for time, k in ((0, 0), (0.9, 0), (1, 1), (1.99, 1), (2, 2), (9, 2))] == [True] * 6


def test_outlines_move_steadily():
    at = interpolate_labels([(0.0, square(10, 10)), (1.0, square(10, 22))])
    columns = [middle(at(time))[1] for time in (0, 0.25, 0.5, 0.75, 1.0)]
    assert columns == pytest.approx([19.5, 22.5, 25.5, 28.5, 31.5], abs=1.5)
    assert columns == sorted(columns)


def test_maps_at_their_own_times_are_unchanged_and_the_ends_stay():
    first, second = square(0, 0), square(30, 30, label=7)
    at = interpolate_labels([(1.0, first), (2.0, second)])
    for time, expected in ((0.0, first), (1.0, first), (2.0, second), (5.0, second)):
        np.testing.assert_array_equal(at(time), expected)


def test_what_is_in_one_map_alone_is_gone_halfway():
    at = interpolate_labels([(0.0, square(10, 10)), (1.0, np.zeros((60, 60), np.uint8))])
    areas = [np.count_nonzero(at(time)) for time in (0, 0.2, 0.4, 0.55, 1)]
    assert areas == sorted(areas, reverse=True)
    assert areas[2] > 0
    assert areas[3] == 0


def test_a_class_that_fills_the_picture():
    full = np.ones((60, 60), np.uint8)
    at = interpolate_labels([(0.0, full), (1.0, full), (2.0, square(20, 20))])
    assert (at(0.5) == 1).all()
    assert 400 < np.count_nonzero(at(1.5)) < 3600


def test_classes_never_mix_into_others():
    at = interpolate_labels([(0.0, square(5, 5, label=3)), (1.0, square(15, 15, label=9))])
    assert set(np.unique(at(0.3))) <= {0, 3, 9}


@pytest.mark.parametrize("size", [(240, 180), (30, 45), (60, 60)])
def test_enlarging_keeps_classes_shares_and_places(size):
    labels = square(10, 20, label=4) + square(40, 0, side=15, label=70)
    large = resize_labels(labels, size)
    assert large.shape == size
    assert large.dtype == np.uint8
    for label in (0, 4, 70):
        assert (large == label).mean() == pytest.approx((labels == label).mean(), abs=0.02)
    assert middle(large == 4)[0] / size[0] == pytest.approx(middle(labels == 4)[0] / 60, abs=0.02)


def test_a_timeline_reads_specks_as_silence():
    timeline = Timeline(("background", "dog"), 3.0)
    for second, side in enumerate((20, 1, 20)):
        timeline.add(second + 0.9, square(0, 0, side=side))
    assert [(i.begin, i.end) for i in timeline.intervals()] == [(0, 1), (2, 3)]


def test_a_map_begins_at_its_turn_exactly():
    maps = [square(k, k) for k in range(2)]
    assert hold_labels([(0.75, maps[0]), (1.75, maps[1])], lead=0.75)(1.0) is maps[1]


def test_a_timeline_by_hand():
    """Two maps in the first second, none in the third, nothing in the fifth; shares are of all pixels of a second."""
    timeline = Timeline(("background", "dog", "bird"), 6.4)
    timeline.add(0.2, square(0, 0, side=30))  # a quarter of the picture
    timeline.add(0.9, square(0, 0, side=0))
    timeline.add(1.9, square(0, 0, side=60, label=2))
    timeline.add(3.9, square(0, 0, side=30, label=2))
    timeline.add(4.9, square(0, 0, side=0))
    timeline.add(5.9, square(0, 0, side=30))
    expected = [[0.875, 0.125, 0], [0, 0, 1], [0, 0, 1], [0.75, 0, 0.25], [1, 0, 0], [0.75, 0.25, 0]]
    np.testing.assert_allclose(timeline.shares(), expected)
    found = [(i.name, i.begin, i.end, i.share) for i in timeline.intervals()]
    assert found == [("dog", 0, 1, 0.125), ("bird", 1, 4, 0.75), ("dog", 5, 6.4, 0.25)]
    assert list(timeline.lines()) == [
        "something sounds in 5 of 6 seconds, 43.8% of all pixels",
        "0:00 to 0:01  dog, 12.5% of the picture",
        "0:01 to 0:04  bird, 75.0% of the picture",
        "0:05 to 0:06.4  dog, 25.0% of the picture",
    ]


def test_nothing_before_the_first_map_sounds_and_a_thousandth_is_enough():
    timeline = Timeline(("background", "dog"), 4000.0)
    labels = np.zeros((50, 40), np.uint8)
    labels[0, :2] = 1
    timeline.add(3700.5, labels)
    (interval,) = timeline.intervals()
    assert (interval.begin, interval.end) == (3700, 4000)
    assert str(interval) == "1:01:40 to 1:06:40  dog, 0.1% of the picture"
    assert timeline.shares()[:3700].tolist() == [[1, 0]] * 3700


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_outlines_between_two_maps_by_distances_written_out(share):
    """On one row: signed distances to the outline, padded with background, interpolated; a pixel on it is outside."""
    first, second = (
        np.repeat(np.array(row, np.uint8)[None], 1, 0) for row in ([0, 1, 1, 1, 0, 0, 0, 0], [0] * 4 + [1] * 3 + [0])
    )
    at = interpolate_labels([(2.0, first), (6.0, second)])

    def distances(row):
        marked, n = [i for i in range(8) if row[i]], range(8)
        inside = [min(1, *(abs(i - j) for j in n if not row[j])) if row[i] else 0 for i in n]  # one row: 1 at most
        return [inside[i] if row[i] else -min(abs(i - j) for j in marked) for i in n]

    a, b = distances(first[0]), distances(second[0])
    expected = [int((1 - share) * x + share * y > 0) for x, y in zip(a, b, strict=True)]
    assert at(2.0 + 4.0 * share)[0].tolist() == expected


def test_of_equal_shares_the_lower_class_wins():
    labels = np.array([[7, 3]], np.uint8)
    assert resize_labels(labels, (1, 3)).tolist() == [[7, 3, 3]]
    assert resize_labels(np.full((4, 4), 9, np.uint8), (2, 2)).tolist() == [[9, 9], [9, 9]]


def test_enlarging_is_bilinear_and_the_highest_share_wins():
    """From 2 x 2 to 4 x 4 the weights are 3/4 and 1/4 a side: the corner keeps 9/16 of itself and wins nothing else."""
    labels = np.array([[5, 0], [0, 0]], np.uint8)
    expected = [[5, 5, 0, 0], [5, 5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert resize_labels(labels, (4, 4)).tolist() == expected
    three = np.array([[1, 2], [2, 2]], np.uint8)
    wide = resize_labels(np.array([[1, 2, 3]], np.uint8), (1, 7))
    assert wide.tolist() == [[1, 1, 2, 2, 2, 3, 3]]
    assert resize_labels(three, (3, 3)).tolist() == [[1, 1, 2], [1, 2, 2], [2, 2, 2]]  # halves: the lower class


def test_a_mask_at_the_edge_has_its_outline_there():
    """A mask that fills the picture shrinks from the edges inwards as it goes."""
    full, none = np.ones((9, 9), np.uint8), np.zeros((9, 9), np.uint8)
    at = interpolate_labels([(0.0, full), (1.0, none)])
    depth = np.minimum.outer(np.minimum(np.arange(9), 8 - np.arange(9)), np.full(9, 9))
    depth = np.minimum(depth, depth.T) + 1  # 1 at the edge, 5 in the middle
    for time in (0.1, 0.3, 0.45):
        np.testing.assert_array_equal(at(time), (1 - time) * depth - 5 * time > 0)
