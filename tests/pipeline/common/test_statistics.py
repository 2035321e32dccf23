"""Intervals and paired tests, against values worked out by hand and those of scipy.stats."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from combo_avs.pipeline.common.statistics import mean_of, mean_of_clips, paired_by_seed


@pytest.fixture(autouse=True)
def no_warning():
    """Nothing here may divide by zero or the like."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class TestMean:
    def test_two_values_have_student_s_t_of_one_degree_of_freedom(self) -> None:
        found = mean_of([0.0, 0.0009])  # standard error 0.00045, and t is 12.706
        assert found.interval is not None
        low, high = found.interval
        assert found.mean == pytest.approx(0.00045)
        assert high - found.mean == pytest.approx(0.00045 * 12.7062047, rel=1e-6)
        assert found.mean - low == pytest.approx(high - found.mean)
        assert (found.n, found.method) == (2, "t")

    def test_three_values_by_hand(self) -> None:
        found = mean_of([1.0, 2.0, 6.0])  # deviation sqrt(7), t of 2 degrees is 4.30265
        half = 4.30265273 * math.sqrt(7 / 3)
        assert found.interval == pytest.approx((3 - half, 3 + half))

    @pytest.mark.parametrize("n", [2, 5, 64])
    def test_as_scipy(self, n: int) -> None:
        values = np.random.default_rng(n).normal(50, 3, n).tolist()
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert mean_of(values).interval == pytest.approx(expected)

    def test_one_value_has_no_interval_and_equal_values_an_empty_one(self) -> None:
        one, same = mean_of([3.5]), mean_of([0.1, 0.1, 0.1])
        assert (one.mean, one.interval, one.n) == (3.5, None, 1)
        assert same.interval == (same.mean, same.mean)
        assert (same.mean, same.n) == (pytest.approx(0.1), 3)


class TestClips:
    def test_many_clips_have_the_percentile_bootstrap(self) -> None:
        values = np.random.default_rng(0).exponential(4, 50) - 3
        found = mean_of_clips(values.tolist())
        options = {"method": "percentile", "n_resamples": 20_000, "rng": np.random.default_rng(9)}
        expected = stats.bootstrap((values,), np.mean, **options).confidence_interval
        assert found.mean == pytest.approx(values.mean())
        assert found.interval == pytest.approx(tuple(expected), abs=0.05)
        assert (found.n, found.method) == (50, "bootstrap")

    def test_it_is_the_same_every_time_and_follows_the_skew(self) -> None:
        values = [0.0] * 30 + [10.0, 20.0]
        found = mean_of_clips(values)
        assert found == mean_of_clips(values)
        assert found.interval is not None
        low, high = found.interval
        assert low == 0
        assert high - found.mean > found.mean - low
        assert high == pytest.approx(2.5, abs=0.35)

    def test_resamples_that_are_drawn_in_parts(self) -> None:
        values = np.random.default_rng(1).normal(size=1500)  # 666 rounds at once
        found, error = mean_of_clips(values.tolist()), values.std(ddof=1) / math.sqrt(1500)
        assert found.interval == pytest.approx((values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.003)
        assert found.interval == pytest.approx((-0.0968442274623, 0.0047020048989), abs=1e-12)  # seed and resamples

    def test_few_clips_have_student_s_t(self) -> None:
        few, enough = [float(k) for k in range(19)], [float(k) for k in range(20)]
        assert mean_of_clips(few) == mean_of(few)
        assert mean_of_clips(enough).method == "bootstrap"
        assert mean_of_clips([1.0]).interval is None

    def test_equal_differences(self) -> None:
        assert mean_of_clips([0.0] * 40).interval == (0, 0)


class TestSeeds:
    def test_a_paired_t_test_by_hand(self) -> None:
        found = paired_by_seed({0: 50.0, 1: 60.0, 2: 70.0}, {0: 51.0, 1: 62.0, 2: 76.0})  # 1, 2, 6
        assert found is not None
        half = 4.30265273 * math.sqrt(7 / 3)
        assert (found.difference.mean, found.difference.n) == (3, 3)
        assert found.difference.interval == pytest.approx((3 - half, 3 + half))
        assert found.p == pytest.approx(0.1885, abs=5e-4)  # t = 1.964 with 2 degrees of freedom
        assert found.left_out == ()

    def test_as_scipy_whatever_the_sign(self) -> None:
        first, second = np.random.default_rng(3).normal(50, 2, (2, 6))
        expected = stats.ttest_rel(second, first)
        for sign in (1, -1):
            a, b = (dict(enumerate(sign * values)) for values in (first, second))
            found = paired_by_seed(a, b)
            assert found is not None
            assert found.p == pytest.approx(expected.pvalue)
            assert found.difference.mean == pytest.approx(sign * (second - first).mean())

    def test_only_shared_seeds_count_whatever_their_order(self) -> None:
        found = paired_by_seed({0: 1.0, 1: 2.0, 5: 9.0}, {2: 8.0, 1: 4.0, 0: 2.0})
        assert found is not None
        assert (found.difference.mean, found.difference.n, found.left_out) == (1.5, 2, (2, 5))
        assert paired_by_seed({0: 1.0}, {1: 1.0}) is None

    def test_one_seed_has_neither_interval_nor_p(self) -> None:
        found = paired_by_seed({4: 1.0}, {4: 3.0})
        assert found is not None
        assert (found.difference.mean, found.difference.interval, found.p) == (2, None, None)

    @pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (2.0, 0.0), (-2.0, 0.0)])
    def test_equal_differences(self, shift: float, p: float) -> None:
        found = paired_by_seed({0: 1.0, 1: 2.0}, {0: 1.0 + shift, 1: 2.0 + shift})
        assert found is not None
        assert found.p == p
        assert found.difference.interval == (shift, shift)
