"""Change points against ruptures' exact search, and against how often noise is taken for one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import ruptures

from tests.unit.metrics.test_intervals import autoregressive
from trajfile.metrics.changes import find_changes, noise_variance


def steps_of(rng, n, levels):
    """Levels of equal length, unit noise."""
    return np.repeat(levels, n // len(levels)) + rng.normal(size=n // len(levels) * len(levels))


@pytest.mark.parametrize("seed", range(5))
def test_levels_are_those_of_the_exact_search_of_ruptures(seed):
    x = steps_of(np.random.default_rng(seed), 200, [0, 8, 1, -6])
    found = [c.index for c in find_changes(x)]
    bill = 5.0 * noise_variance(x) * math.log(len(x))
    pelt = ruptures.Pelt(model="l2", min_size=5, jump=1).fit(x).predict(bill)
    assert found == pelt[:-1]
    assert found == pytest.approx([50, 100, 150], abs=1)


@pytest.mark.parametrize("seed", range(5))
def test_lines_are_those_of_the_exact_search_of_ruptures(seed):
    t = np.arange(90.0)
    x = np.where(t < 45, -0.3 * t, -13.5 + 0.2 * (t - 45))
    x = x + np.random.default_rng(seed).normal(scale=0.5, size=90)
    found = [c.index for c in find_changes(x, lines=True)]
    signal = np.column_stack([x, np.ones(90), t])
    exact = ruptures.Dynp(model="linear", min_size=5, jump=1).fit(signal).predict(n_bkps=1)
    assert found == exact[:-1]
    assert abs(found[0] - 45) <= 5


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize(("phi", "n"), [(0.0, 20), (0.0, 200), (0.5, 200), (0.8, 500), (0.5, 3000)])
def test_noise_is_not_taken_for_changes(phi, n, lines):
    series = autoregressive(phi, n, runs=40, seed=1)
    share = np.mean([bool(find_changes(x, lines=lines)) for x in series])
    assert share <= {0.0: 0.05, 0.5: 0.15, 0.8: 0.25}[phi]


def test_a_straight_line_has_no_change_and_a_smooth_curve_none_above_the_floor():
    assert find_changes(np.linspace(0, 7, 100), lines=True) == []
    bend = 0.05 * np.linspace(-1, 1, 100) ** 2
    assert find_changes(bend, lines=True) != []
    assert find_changes(bend, lines=True, floor=0.05) == []


def test_the_interval_of_a_change_holds_its_place():
    held, wide, sharp = 0, [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found = find_changes(steps_of(rng, 80, [0, 4]))
        if len(found) == 1:
            held += found[0].low <= 40 <= found[0].high
            wide.append(found[0].high - found[0].low)
        (clear,) = find_changes(steps_of(rng, 80, [0, 30]))
        sharp.append(clear.high - clear.low)
    assert len(wide) > 180
    assert held >= 0.93 * len(wide)
    assert np.mean(wide) < 4
    assert max(sharp) == 0


def test_long_series_are_averaged_and_the_place_is_known_to_a_block():
    rng = np.random.default_rng(0)
    (change,) = find_changes(steps_of(rng, 20_000, [0, 2]))
    assert change.low <= 10_000 <= change.high
    assert abs(change.index - 10_000) <= 40


def test_noise_variance_is_that_of_the_noise_alone():
    rng = np.random.default_rng(2)
    x = 2 * rng.normal(size=2000) + np.linspace(0, 50, 2000)
    x[1000:] += 30
    assert noise_variance(x) == pytest.approx(4, rel=0.5)
    correlated = [noise_variance(x) for x in autoregressive(0.5, 2000, 20)]
    assert np.median(correlated) == pytest.approx(1 / 0.25, rel=0.5)  # σ²/(1-φ)²
    tent = 0.5 * np.abs(np.arange(2000.0) - 1000)
    correlated = [noise_variance(x + tent, lines=True) for x in autoregressive(0.5, 2000, 20)]
    assert np.median(correlated) == pytest.approx(1 / 0.25, rel=0.5)


@pytest.mark.parametrize("n", [0, 1, 5, 9])
def test_too_short_a_series_has_no_change(n):
    assert find_changes(np.arange(n) % 2 * 9.0) == []


def test_other_units_give_the_same_places():
    x = steps_of(np.random.default_rng(3), 60, [1, 8, 3])
    assert find_changes(1e-6 * x + 5e-6) == find_changes(x)
