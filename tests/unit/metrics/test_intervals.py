"""Intervals against what they promise: how often they hold the truth, on noise of known kind."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trajfile.metrics.intervals import (
    effective_windows,
    fraction_interval,
    jackknife_interval,
    mean_interval,
    median_interval,
    ratio_interval,
    stated,
)

RUNS = 400


def autoregressive(phi, n, runs=RUNS, seed=0):
    """x_{k+1} = φx_k + noise, from its stationary distribution; mean and median are 0."""
    normal = np.random.default_rng(seed).normal
    x = np.empty((runs, n))
    x[:, 0] = normal(size=runs) / np.sqrt(1 - phi**2)
    for k in range(1, n):
        x[:, k] = phi * x[:, k - 1] + normal(size=runs)
    return x


def coverage(intervals, truth):
    return np.mean([i.low <= truth <= i.high for i in intervals])


@pytest.mark.parametrize(("phi", "n"), [(0.0, 40), (0.5, 150), (0.8, 400), (0.95, 2000)])
def test_mean_and_median_intervals_hold_the_truth_95_times_in_100(phi, n):
    series = autoregressive(phi, n)
    # 400 runs: the binomial's own 3.5 standard deviations are 4 in 100.
    assert coverage(map(mean_interval, series), 0.0) == pytest.approx(0.95, abs=0.04)
    assert coverage(map(median_interval, series), 0.0) == pytest.approx(0.95, abs=0.04)


def test_an_interval_that_ignored_correlation_would_not_hold_it():
    series = autoregressive(0.9, 400)
    half = 1.96 * series.std(axis=1) / 20
    assert np.mean(np.abs(series.mean(axis=1)) <= half) < 0.5
    assert coverage(map(mean_interval, series), 0.0) > 0.88


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_effective_windows_are_those_of_the_known_autocorrelation_time(phi):
    found = np.median([effective_windows(x) for x in autoregressive(phi, 4000, 50)])
    assert found == pytest.approx(4000 * (1 - phi) / (1 + phi), rel=0.15)


def test_few_windows_are_still_mostly_right_and_said_to_be_few():
    series = autoregressive(0.9, 60)
    found = [mean_interval(x) for x in series]
    assert np.median([i.windows for i in found]) < 8
    assert coverage([i for i in found if i.windows >= 4], 0.0) > 0.75


def test_ratio_interval_holds_the_truth():
    rng = np.random.default_rng(3)
    found = []
    for noise in autoregressive(0.5, 200, seed=4):
        below = rng.uniform(1, 3, 200)
        found.append(ratio_interval(0.7 * below + noise * below, below))
    assert coverage(found, 0.7) == pytest.approx(0.95, abs=0.04)


def test_ratio_with_a_constant_below_is_a_mean():
    x = autoregressive(0.5, 100, 1)[0]
    ratio, mean = ratio_interval(x, np.full(100, 2.0)), mean_interval(x / 2)
    assert (ratio.low, ratio.high) == pytest.approx((mean.low, mean.high))


def test_independent_values_give_the_textbook_interval():
    x = np.array([1.0, -1.0, 2.0, -2.0, 1.5, -1.5, 0.5, -0.5])  # alternates: τ = 1
    found = mean_interval(x)
    assert found.windows == 8
    low, high = stats.t.interval(0.95, 7, loc=x.mean(), scale=stats.sem(x))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_fraction_is_wilson_s_and_never_empty():
    found = fraction_interval(0.3, 1e9)
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.sqrt(0.21 / 1e9), rel=1e-4)
    none = fraction_interval(0.0, 20)
    assert none.low == 0
    # Wilson's interval with a t quantile in place of the normal one: t²/(n + t²).
    t = stats.t.ppf(0.975, 19)
    assert none.high == pytest.approx(t**2 / (20 + t**2))
    all_of_them = fraction_interval(1.0, 20)
    assert (all_of_them.low, all_of_them.high) == pytest.approx((1 - none.high, 1.0))


def test_jackknife_of_a_mean_is_student_s_interval():
    x = np.random.default_rng(5).normal(size=12)
    left_out = np.array([np.delete(x, i).mean() for i in range(12)])
    found = jackknife_interval(float(x.mean()), left_out)
    low, high = stats.t.interval(0.95, 11, loc=x.mean(), scale=stats.sem(x))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_what_cannot_be_known_is_not_given():
    assert mean_interval(np.array([1.0])).pair is None
    assert mean_interval(np.array([np.nan, np.nan])).pair is None
    assert median_interval(np.empty(0)).pair is None
    assert ratio_interval(np.ones(5), np.zeros(5)).pair is None
    assert fraction_interval(0.5, 0.0).pair is None
    assert fraction_interval(0.5, 1.0).pair == [0.0, 1.0]
    assert stated("x", 1.0, mean_interval(np.array([1.0]))) == {"x": None, "x_interval": None}
    assert stated("x", 1.0, mean_interval(np.ones(3))) == {"x": 1.0, "x_interval": [1.0, 1.0]}
    assert jackknife_interval(1.0, np.ones(1)).pair is None
    assert mean_interval(np.full(9, 3.0)).pair == [3.0, 3.0]
    assert mean_interval(np.full(9, 3.0)).windows == 9


def test_missing_values_are_left_out():
    x = autoregressive(0.3, 50, 1)[0]
    holes = np.insert(x, [5, 20, 20], np.nan)
    assert mean_interval(holes) == mean_interval(x)
    assert median_interval(holes) == median_interval(x)


def test_the_same_series_in_other_units_has_the_same_windows():
    x = autoregressive(0.7, 300, 1)[0]
    for factor in (1e-150, 1e12):
        assert effective_windows(factor * x) == pytest.approx(effective_windows(x))


def test_a_series_that_moves_as_one_has_its_range_for_an_interval():
    x = np.linspace(3, 5, 40)
    for found in (mean_interval(x), median_interval(x), ratio_interval(x, np.ones(40))):
        assert found.windows < 2
        assert found.pair == pytest.approx([3, 5])
