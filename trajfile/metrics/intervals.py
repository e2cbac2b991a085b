"""How far a statistic of a correlated series can be trusted.

Intervals are Student's, with the effective windows of the series (see `trajfile.metrics.windows`)
less one as degrees of freedom. Nothing is drawn at random, so the same run gives the same interval.

A series with a trend has few windows and a wide interval, as it should: its mean is that of this
run and of no other. With fewer than two windows there is no spread to tell by, and the interval is
the whole range of the values.

Each figure is of one series, or of many at once, one a row, under the plural of its name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from trajfile.metrics.rowwise import Rows, rows
from trajfile.report import number

Float = NDArray[np.float64]
Pairs = list[list[float] | None]

#: What every interval of a report is said to be, in its notes.
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval.

    Attributes:
        low: Its lower end; NaN where fewer than two values show no spread.
        high: Its upper end; NaN likewise.
        windows: Effective number of independent windows behind it.
    """

    low: float
    high: float
    windows: float

    @property
    def pair(self) -> list[float] | None:
        """[low, high] for a report; None where there is none."""
        known = math.isfinite(self.low) and math.isfinite(self.high)
        return [self.low, self.high] if known else None


@dataclass(frozen=True)
class Intervals:
    """The 95 % confidence intervals of n figures, each float64, shape (n,); see `Interval`."""

    low: Float
    high: Float
    windows: Float

    @property
    def first(self) -> Interval:
        """The first of them."""
        return Interval(float(self.low[0]), float(self.high[0]), float(self.windows[0]))


def stated(name: str, value: float, interval: Interval) -> dict[str, float | list[float] | None]:
    """A figure and its interval under the names a report gives them.

    Args:
        name: Of the figure; ``<name>_interval`` is that of the interval.
        value: The figure.
        interval: Its interval.

    Returns:
        Both; both null where either is undefined, for a figure is never given bare.
    """
    known = number(value) is not None and interval.pair is not None
    return {name: value if known else None, f"{name}_interval": interval.pair if known else None}


def stated_each(
    name: str, values: Float, intervals: Intervals
) -> dict[str, list[float | None] | Pairs]:
    """`stated` of n figures.

    Args:
        name: Of the figure.
        values: float64, shape (n,).
        intervals: One of each.

    Returns:
        Under both names a list of n.
    """
    low, high = intervals.low, intervals.high
    known = (np.isfinite(values) & np.isfinite(low) & np.isfinite(high)).tolist()
    pairs = zip(known, low.tolist(), high.tolist(), strict=True)
    return {
        name: [value if k else None for k, value in zip(known, values.tolist(), strict=True)],
        f"{name}_interval": [[a, b] if k else None for k, a, b in pairs],
    }


def student(windows: float) -> float:
    """Half-width of a 95 % interval in standard errors, from so many independent windows.

    Args:
        windows: Their number, at least 2 for a finite answer.

    Returns:
        The 97.5 % quantile of Student's t with windows - 1 degrees of freedom; infinite below 2.
    """
    return float(stdtrit(windows - 1, 0.5 + LEVEL / 2)) if windows >= 2 else math.inf


def effective_windows(values: Float) -> float:
    """How many independent values a correlated series is worth; see `trajfile.metrics.windows`.

    Args:
        values: float64, shape (n,), in order of time; what is not finite is left out.

    Returns:
        Between 0 and n.
    """
    return float(rows(values[None, :]).windows[0])


def mean_interval(values: Float) -> Interval:
    """Interval of the mean of a correlated series.

    Args:
        values: float64, shape (n,), in order of time; what is not finite is left out.

    Returns:
        mean ± t·s/√windows, with s² the variance, made unbiased for that many windows.
    """
    return mean_intervals(rows(values[None, :])).first


def mean_intervals(series: Rows) -> Intervals:
    """`mean_interval` of each of n series."""
    return _about(series.means, series)


def ratio_interval(above: Float, below: Float) -> Interval:
    """Interval of Σ above/Σ below, by linearising the ratio.

    With r the ratio, the mean of above - r·below is zero; its interval, over the mean of below,
    is that of r.

    Args:
        above: float64, shape (n,), in order of time.
        below: The same shape; rows in which either is not finite are left out.

    Returns:
        The interval; NaN unless Σ below is positive.
    """
    return ratio_intervals(above[None, :], below).first


def ratio_intervals(above: Float, below: Float) -> Intervals:
    """`ratio_interval` of each row of `above`, shape (n, m), to one series, shape (m,)."""
    known = np.isfinite(above) & np.isfinite(below)
    parts = np.where(known, above, 0.0).sum(axis=1)
    whole = np.where(known, below, 0.0).sum(axis=1)
    positive = whole > 0
    ratio = np.divide(parts, whole, out=np.full(len(whole), np.nan), where=positive)
    mean = np.where(positive, whole, 1.0) / np.maximum(known.sum(axis=1), 1)
    with np.errstate(invalid="ignore"):
        rest = (above - ratio[:, None] * below) / mean[:, None]
    return _about(ratio, rows(np.where(known, rest, np.nan)))


def median_interval(values: Float) -> Interval:
    """Interval of the median of a correlated series, from its order statistics.

    The number of values below the true median has standard deviation n/(2√windows), the windows
    being those of the series that only says on which side of the median each value lies.

    Args:
        values: float64, shape (n,), in order of time; what is not finite is left out.

    Returns:
        The order statistics that many standard deviations to either side of the middle.
    """
    return _of_medians(rows(values[None, :])).first


def stated_median(
    name: str, values: Float, fewest: int = 1
) -> dict[str, float | list[float] | None]:
    """The median of a series and its interval, as of `stated`.

    Args:
        name: Of the figure.
        values: float64, shape (n,), in order of time; what is not finite is left out.
        fewest: Finite values below which there is no figure.

    Returns:
        Both; both null where either is undefined.
    """
    figures = stated_medians(name, rows(values[None, :]), fewest)
    return {key: column[0] for key, column in figures.items()}


def stated_medians(
    name: str, series: Rows, fewest: int = 1
) -> dict[str, list[float | None] | Pairs]:
    """`stated_median` of each of n series, under both names a list of n."""
    medians = np.where(series.counts >= fewest, series.medians, np.nan)
    return stated_each(name, medians, _of_medians(series))


def stated_means(name: str, series: Rows) -> dict[str, list[float | None] | Pairs]:
    """The mean of each of n series and its interval, under both names a list of n."""
    return stated_each(name, series.means, mean_intervals(series))


def fraction_interval(hits: float, windows: float) -> Interval:
    """Wilson's interval of the share of rows in which something holds.

    Unlike a mean's it is not empty where the share is 0 or 1.

    Args:
        hits: The share, in [0, 1].
        windows: Effective number of windows it is a share of.

    Returns:
        The interval, within [0, 1]: all of that below two windows, none without any.
    """
    return fraction_intervals(np.array([hits]), np.array([windows])).first


def fraction_intervals(hits: Float, windows: Float) -> Intervals:
    """`fraction_interval` of n shares, each float64, shape (n,)."""
    enough = np.maximum(windows, 2.0)
    square = _students(windows) ** 2 / enough
    middle = (hits + square / 2) / (1 + square)
    half = np.sqrt(square * (hits * (1 - hits) + square / 4)) / (1 + square)
    unknown = ~(windows > 0) | ~np.isfinite(hits)
    ends = np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)
    low, high = (
        np.where(unknown, np.nan, np.where(windows < 2, all_of, end))
        for all_of, end in zip((0.0, 1.0), ends, strict=True)
    )
    return Intervals(low, high, windows)


def jackknife_interval(value: float, left_out: Float) -> Interval:
    """Interval of any smooth statistic of independent samples.

    Args:
        value: The statistic of all n samples.
        left_out: The statistic with each sample left out in turn, float64, shape (n,).

    Returns:
        value ± t·√((n-1)/n Σ(left_out - their mean)²) (Tukey's jackknife).
    """
    kept = left_out[np.isfinite(left_out)]
    n = len(kept)
    if n < 2 or not math.isfinite(value):
        return Interval(math.nan, math.nan, float(n))
    error = math.sqrt((n - 1) / n * float(((kept - kept.mean()) ** 2).sum()))
    half = student(n) * error
    return Interval(value - half, value + half, float(n))


def _students(windows: Float) -> Float:
    """`student` of each, that of 2 below 2."""
    return np.asarray(stdtrit(np.maximum(windows, 2.0) - 1, 0.5 + LEVEL / 2), np.float64)


def _about(values: Float, series: Rows) -> Intervals:
    """Student's intervals about values, from the spread of each series and its windows."""
    if not series.values.size:
        return _none(series)
    windows = series.windows
    half = _students(windows) * series.deviations / np.sqrt(np.maximum(windows, 2.0) - 1)
    shift = values - series.means
    return _or_range(values - half, values + half, series, windows, shift)


def _of_medians(series: Rows) -> Intervals:
    """The intervals of the medians."""
    if not series.values.size:
        return _none(series)
    sides = np.sign(series.values - series.medians[:, None])
    sides = sides if series.full else np.where(series.inside, sides, 0.0)
    windows = Rows(sides, series.counts).windows
    half = _students(windows) * 0.5 / np.sqrt(np.maximum(windows, 1.0))
    low = series.at_quantile(np.maximum(0.5 - half, 0.0))
    high = series.at_quantile(np.minimum(0.5 + half, 1.0))
    return _or_range(low, high, series, windows, np.zeros(len(windows)))


def _none(series: Rows) -> Intervals:
    unknown = np.full(len(series.counts), np.nan)
    return Intervals(unknown, unknown, np.zeros(len(unknown)))


def _or_range(low: Float, high: Float, series: Rows, windows: Float, shift: Float) -> Intervals:
    """Intervals; of fewer than two windows the range of all values, two at least, shifted."""
    wide = windows < 2
    if not wide.any():
        return Intervals(low, high, windows)
    two = np.where(series.counts < 2, np.nan, shift)
    least, most = series.at(np.zeros(len(windows), np.int64)), series.at(series.counts - 1)
    return Intervals(np.where(wide, least + two, low), np.where(wide, most + two, high), windows)
