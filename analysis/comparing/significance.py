"""What a handful of seeds can say: means, intervals, differences, adjusted p-values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # scipy.stats takes a second to load and does so when first used
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
RESAMPLES = 9999
MIN_SEEDS = 5  # seeds of each setting for a p-value: five against five can reach 2/252
MIN_VALUES = 3  # values for an interval


@dataclass(frozen=True)
class Summary:
    """n values by their mean, sample standard deviation and the mean's interval.

    sd is nan for one value, the interval for less than MIN_VALUES; values that are not
    finite make the mean what they are.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float


def summary(values: ArrayLike) -> Summary:
    """Mean, sd (n − 1) and the mean's interval of a sample (n,)."""
    sample = np.asarray(values, dtype=float)
    if not np.isfinite(sample).all():
        with np.errstate(invalid="ignore"):
            return Summary(len(sample), float(sample.mean()), *[math.nan] * 3)
    sd = float(sample.std(ddof=1)) if len(sample) > 1 else math.nan
    mean = float(sample.mean()) if len(sample) else math.nan
    return Summary(len(sample), mean, sd, *interval(sample))


def interval(*samples: NDArray[np.float64]) -> tuple[float, float]:
    """Student's t interval of a mean; Welch's of the difference of two samples' means.

    (nan, nan) with less than MIN_VALUES; without any spread the mean itself twice.
    """
    if min(len(sample) for sample in samples) < MIN_VALUES:
        return math.nan, math.nan
    if all(np.ptp(sample) == 0 for sample in samples):
        middle = float(_difference(*samples))
        return middle, middle
    if len(samples) == 1:
        test = scipy.stats.ttest_1samp(samples[0], 0)
    else:
        test = scipy.stats.ttest_ind(*samples, equal_var=False)
    low, high = test.confidence_interval(LEVEL)
    return float(low), float(high)


def permutation_test(*samples: NDArray[np.float64]) -> float:
    """p of a mean difference of zero, by sign flips; of two samples, of equal means.

    Exact where there are few enough permutations.
    """
    kind = "samples" if len(samples) == 1 else "independent"
    test = scipy.stats.permutation_test(
        samples,
        _difference,
        permutation_type=kind,
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def adjusted(ps: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's p-values; nan stays nan and counts for nothing."""
    known = ~np.isnan(np.array(ps, dtype=float))
    result = np.full(len(ps), math.nan)
    if known.any():
        result[known] = scipy.stats.false_discovery_control(np.array(ps)[known])
    return [float(p) for p in result]


def _difference(*samples: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    means = [np.mean(sample, axis=axis) for sample in samples]
    difference: NDArray[np.float64] = means[0] - sum(means[1:])
    return difference
