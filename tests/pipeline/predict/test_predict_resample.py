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
