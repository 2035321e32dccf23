"""How sure a mean is: intervals, and differences of pairs. Values keep their unit; every result states its n.

A mean has Student's t interval: right for any n when the values are about normal, as scores over seeds are. The mean
difference of two runs over clips has a bootstrap interval, since such differences are far from normal: most are near
0 and a few are large. It is the percentile interval, because it needs no estimate of bias or skew, which few clips do
not support. Below `CLIPS_FOR_BOOTSTRAP` clips even that is too narrow (for two clips it never leaves the two values),
so Student's t is used there, too.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

LEVEL = 0.95  # of all intervals
RESAMPLES = 10_000
SEED = 0
CLIPS_FOR_BOOTSTRAP = 20
_AT_ONCE = 1_000_000  # numbers drawn at once


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval, which is None for n < 2. method: "t" or "bootstrap"."""

    mean: float
    interval: tuple[float, float] | None
    n: int
    method: str = "t"


@dataclass(frozen=True)
class PairedTest:
    """The mean of second - first over the seeds that both have, with a paired t-test.

    p: two-sided, of no difference; None for n < 2. left_out: seeds that only one of them has.
    """

    difference: Mean
    p: float | None
    left_out: tuple[int, ...]


def mean_of(values: Sequence[float]) -> Mean:
    """The mean of at least one value, with Student's t interval."""
    n, mean = len(values), math.fsum(values) / len(values)
    if n < 2:
        return Mean(mean, None, n)
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2)) * _standard_error(values)
    return Mean(mean, (mean - half, mean + half), n)


def mean_of_clips(differences: Sequence[float]) -> Mean:
    """The mean difference of at least one pair of clips, with a percentile bootstrap interval over clips.

    The resamples are drawn from a fixed seed, so equal values in equal order have equal intervals.
    """
    n = len(differences)
    if n < CLIPS_FOR_BOOTSTRAP:
        return mean_of(differences)
    values, random = np.asarray(differences, np.float64), np.random.default_rng(SEED)
    rounds = max(1, _AT_ONCE // n)
    parts = [min(rounds, RESAMPLES - start) for start in range(0, RESAMPLES, rounds)]
    means = np.concatenate([values[random.integers(n, size=(part, n))].mean(axis=1) for part in parts])
    low, high = np.quantile(means, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Mean(math.fsum(differences) / n, (float(low), float(high)), n, "bootstrap")


def paired_by_seed(first: Mapping[int, float], second: Mapping[int, float]) -> PairedTest | None:
    """Compare two results by seed; None when they share none.

    When all differences are equal, p is 1 for no difference and 0 for any other.
    """
    both = [seed for seed in first if seed in second]
    if not both:
        return None
    differences = [second[seed] - first[seed] for seed in both]
    mean, p = mean_of(differences), None
    if mean.n > 1:
        error = _standard_error(differences)
        p = 2 * float(stdtr(mean.n - 1, -abs(mean.mean) / error)) if error else float(mean.mean == 0)
    return PairedTest(mean, p, tuple(sorted(first.keys() ^ second.keys())))


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean of n > 1 values; exactly 0 for equal ones."""
    if min(values) == max(values):
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))
