"""Figures of many series at once against those of each alone, by NumPy and by their definition."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tests.unit.metrics.test_intervals import autoregressive
from trajfile.metrics.intervals import (
    Intervals,
    fraction_interval,
    fraction_intervals,
    mean_interval,
    mean_intervals,
    median_interval,
    ratio_interval,
    ratio_intervals,
    stated_medians,
)
from trajfile.metrics.jumps import Signs, find_jumps, may_jump
from trajfile.metrics.rowwise import firsts, largests, lasts, rows


def spoiled(n=48, seed=0):
    """Series of every kind that runs have, with gaps, late starts and early ends."""
    rng = np.random.default_rng(seed)
    walk = rng.normal(size=n).cumsum()
    smooth = autoregressive(0.9, n, 6, seed)
    gaps = np.where(rng.random(n) < 0.3, np.nan, smooth[2])
    late, early = smooth[3].copy(), smooth[4].copy()
    late[: n // 3], early[n // 2 :] = np.nan, np.inf
    few, nothing = np.full(n, np.nan), np.full(n, np.nan)
    few[[1, 5]] = 1.0, 3.0
    alternating = (-1.0) ** np.arange(n)
    return np.stack(
        [walk, smooth[0], gaps, late, early, few, nothing, alternating, np.full(n, 2.5), smooth[5]]
    )


TABLES = {
    "with gaps": spoiled(),
    "long": spoiled(700, 1),
    "of even length": autoregressive(0.5, 30, 5),
    "that end together": np.pad(
        autoregressive(0.5, 30, 5), ((0, 0), (0, 3)), constant_values=np.nan
    ),
    "of one value": np.array([[1.0], [np.nan]]),
    "without values": np.empty((2, 0)),
    "without rows": np.empty((0, 9)),
}


def kept(row):
    return row[np.isfinite(row)]


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_statistics_are_those_of_each_rows_finite_values(table):
    found = rows(table)
    share = np.linspace(0, 1, len(table))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns of what is empty
        for row, values in enumerate(map(kept, table)):
            one = [found.means[row], found.medians[row], found.deviations[row]]
            one += [found.at_quantile(share)[row], largests(table)[row]]
            of = [np.mean(values), np.median(values), np.std(values)]
            of += [np.quantile(values, share[row]), values.max()] if len(values) else [np.nan] * 2
            np.testing.assert_allclose(one, of, rtol=1e-12, atol=1e-15)
            ends = firsts(table)[row], lasts(table)[row]
            np.testing.assert_array_equal(ends, values[[0, -1]] if len(values) else [np.nan] * 2)


def windows_by_definition(x):
    """n/τ of one series, word for word."""
    n = len(x)
    if n < 3 or len(set(x.tolist())) == 1:
        return n
    x = x - x.mean()
    rho = np.array([x[: n - k] @ x[k:] for k in range(n)]) / (x @ x)
    count = 0
    while 2 * count + 1 < n and rho[2 * count] + rho[2 * count + 1] > 1e-12:
        count += 1
    if rho[1] <= 0:
        return n
    tau = 1.0
    for _ in range(4):
        absorbed, least, total = min(tau / n, 0.5), np.inf, 0.0
        for k in range(0, 2 * count, 2):
            pair = sum(
                min((rho[j] * (1 - absorbed) + absorbed) / max(1 - j / n, 0.5), 1.0)
                for j in (k, k + 1)
            )
            least = min(least, pair)
            total += least
        tau = min(max(2 * total - 1, 1.0), n)
    return n / tau


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_windows_are_those_of_the_definition(table):
    expected = [windows_by_definition(kept(row)) for row in table]
    np.testing.assert_allclose(rows(table).windows, expected, rtol=1e-9)


def in_one(intervals):
    table = [(i.low, i.high, i.windows) for i in intervals]
    return Intervals(*np.array(table).reshape(-1, 3).T)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_intervals_of_many_are_those_of_each(table):
    below = 1 + np.arange(table.shape[1]) % 3.0
    share, windows = np.linspace(0, 1, len(table)), rows(table).windows
    pairs = [
        (mean_intervals(rows(table)), map(mean_interval, table)),
        (ratio_intervals(table, below), (ratio_interval(row, below) for row in table)),
        (fraction_intervals(share, windows), map(fraction_interval, share, windows)),
    ]
    for found, each in pairs:
        expected = in_one(each)
        for name in ("low", "high", "windows"):
            of = getattr(found, name), getattr(expected, name)
            np.testing.assert_allclose(*of, rtol=1e-12, atol=1e-15)
    medians = stated_medians("m", rows(table), 3)["m_interval"]
    for row, pair in zip(table, medians, strict=True):
        one = median_interval(row).pair if len(kept(row)) >= 3 else None
        assert pair == (one and pytest.approx(one, rel=1e-12))


def test_vectors_that_cannot_have_jumped_show_none():
    rng, judged = np.random.default_rng(5), 0
    for trial in range(60):
        n = 40
        steps = np.cumsum(rng.integers(1, 2 + trial % 4, n))
        growth = rng.normal(0, rng.choice([0.002, 0.02, 0.2]), (8, n - 1))
        distance = np.abs(rng.normal(0, rng.choice([0.01, 0.05]), (8, n - 1)))
        distance[rng.random(distance.shape) < 0.1] = np.nan
        loss_factor = rng.uniform(0, 8, n - 1)
        bounds = {"delta": 0.1, "cover": 0.9, "spike": 5.0}
        may = may_jump(steps, distance, growth, growth + 0.01, loss_factor, **bounds)
        for k in np.flatnonzero(~may):
            signs = Signs(steps, distance[k], growth[k], growth[k] + 0.01, loss_factor)
            assert not len(find_jumps(signs, 0.1, 10, 0.9, 5.0).start)
            judged += 1
    assert judged > 50
