"""Statistics against what one gets by hand or by counting every case."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from analysis.comparing import significance


def test_a_summary_is_mean_and_sample_deviation() -> None:
    found = significance.summary([1.0, 2.0, 3.0, 4.0])
    assert (found.n, found.mean) == (4, 2.5)
    assert found.sd == pytest.approx(math.sqrt(5 / 3))
    reach = 3.182446 * found.sd / 2  # t of 3 degrees of freedom
    assert (found.low, found.high) == pytest.approx((2.5 - reach, 2.5 + reach))


def test_the_interval_is_students_and_welchs() -> None:
    one, two = np.array([1.0, 1.3, 2.0, 2.2, 6.0]), np.array([0.5, 0.4, 0.9])
    expected = stats.ttest_1samp(one, 0).confidence_interval()
    assert significance.interval(one) == pytest.approx(tuple(expected))
    unpaired = stats.ttest_ind(one, two, equal_var=False).confidence_interval()
    assert significance.interval(one, two) == pytest.approx(tuple(unpaired))


def test_paired_p_counts_every_flip_of_signs() -> None:
    differences = np.array([1.0, 2.0, -0.5, 3.0, 4.0, 2.5])
    means = [
        abs(np.mean(differences * signs))
        for signs in itertools.product((1, -1), repeat=6)
    ]
    expected = np.mean(np.array(means) >= abs(differences.mean()) - 1e-12)
    assert significance.permutation_test(differences) == pytest.approx(expected)


@pytest.mark.parametrize(
    "other", [[11.0, 12.0, 13.0, 14.0, 15.0], [2.5, 1.5, 3.6, 7.0, 6.1]]
)
def test_unpaired_p_counts_every_way_to_split(other: list[float]) -> None:
    one, two = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array(other)
    both = np.concatenate([one, two])
    found = []
    for chosen in itertools.combinations(range(10), 5):
        inside = np.isin(np.arange(10), chosen)
        found.append(both[inside].mean() - both[~inside].mean())
    observed, every = one.mean() - two.mean(), np.array(found)
    tails = [np.mean(every <= observed + 1e-9), np.mean(every >= observed - 1e-9)]
    expected = min(1.0, 2 * min(tails))
    assert significance.permutation_test(one, two) == pytest.approx(expected)


def test_p_values_are_adjusted_by_benjamini_and_hochberg() -> None:
    found = significance.adjusted([0.01, 0.04, math.nan, 0.03])
    assert found[:2] == pytest.approx([0.03, 0.04])
    assert math.isnan(found[2])
    assert found[3] == pytest.approx(0.04)  # min(0.03 · 3 / 2, 0.04)
    assert significance.adjusted([]) == []
