"""Intervals over seeds against the exact bootstrap distribution of a few values."""

from itertools import product

import numpy as np
import pytest

from storage.comparison.bootstrap import mean_interval, ratio_interval


def test_a_mean_lies_as_in_all_resamples_there_are() -> None:
    values = [0.2, 0.5, 0.9, 0.4]
    exact = [np.mean(drawn) for drawn in product(values, repeat=4)]
    low, high = np.percentile(exact, (2.5, 97.5))
    interval = mean_interval(values)
    assert interval["value"] == pytest.approx(0.5)
    assert interval["low"] == pytest.approx(low, abs=0.03)
    assert interval["high"] == pytest.approx(high, abs=0.03)


def test_a_ratio_resamples_both_arms_of_a_seed_together() -> None:
    over, under = [70.0, 90.0, 50.0], [10.0, 10.0, 10.0]
    places = list(product(range(3), repeat=3))
    exact = [np.mean([over[i] for i in p]) / 10 for p in places]
    low, high = np.percentile(exact, (2.5, 97.5), method="inverted_cdf")
    interval = ratio_interval(over, under)
    assert interval["value"] == pytest.approx(7)
    assert (interval["low"], interval["high"]) == (pytest.approx(low), pytest.approx(high))
    # Where every seed has the same ratio, there is nothing uncertain in it.
    same = ratio_interval([10.0, 30.0, 5.0], [2.0, 6.0, 1.0])
    assert list(same.values()) == pytest.approx([5, 5, 5])


def test_two_values_have_no_interval_and_none_has_nothing() -> None:
    nothing = {"value": None, "low": None, "high": None}
    assert mean_interval([0.5]) == {"value": 0.5, "low": None, "high": None}
    assert mean_interval([0.5, 0.7]) == {"value": pytest.approx(0.6), "low": None, "high": None}
    assert mean_interval([]) == nothing
    assert ratio_interval([], []) == ratio_interval([1.0], [0.0]) == nothing
    assert ratio_interval([1.0, 2.0], [1.0]) == nothing
    assert ratio_interval([6.0], [2.0])["value"] == 3


def test_the_same_values_have_the_same_interval() -> None:
    assert mean_interval([0.1, 0.7, 0.3]) == mean_interval([0.1, 0.7, 0.3])
