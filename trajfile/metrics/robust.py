"""Statistics of short noisy series that one odd value cannot swing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def finite(values: Float) -> Float:
    """The finite values among `values`."""
    return values[np.isfinite(values)]


def median(values: Float) -> float:
    """Median of the finite values; NaN if there are none."""
    kept = np.sort(finite(values))
    return middle(kept) if len(kept) else math.nan


def middle(ordered: Float) -> float:
    """Median of finite values in increasing order, one at least.

    Reports hold thousands of medians of some hundred values, for which `numpy.median` takes ten
    times as long.

    Args:
        ordered: float64, shape (n,) with n >= 1.

    Returns:
        The middle one, or the mean of the two in the middle.
    """
    half = len(ordered) // 2
    return float(ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2)


def mean(values: Float) -> float:
    """Mean of the finite values; NaN if there are none."""
    kept = finite(values)
    return float(kept.mean()) if len(kept) else math.nan


def trimmed_mean(values: Float) -> float:
    """Mean without the largest and the smallest tenth, at least one each of 5 or more values.

    Unlike a median it does not pick one side of a curve that alternates between two values.

    Args:
        values: Finite float64, shape (n,) with n >= 1.

    Returns:
        The mean of what is left.
    """
    cut = max(len(values) // 10, 1) if len(values) >= 5 else 0
    return float(np.sort(values)[cut : len(values) - cut].mean())


def first(values: Float) -> float:
    """The first finite value; NaN if there is none."""
    kept = finite(values)
    return float(kept[0]) if len(kept) else math.nan


def last(values: Float) -> float:
    """The last finite value; NaN if there is none."""
    kept = finite(values)
    return float(kept[-1]) if len(kept) else math.nan


def largest(values: Float) -> float:
    """The largest finite value; NaN if there is none."""
    kept = finite(values)
    return float(kept.max()) if len(kept) else math.nan


@dataclass(frozen=True)
class Trend:
    """How a short series moves from its first value to its last.

    Attributes:
        change: Theil-Sen slope (the median over all pairs) times the series' length: the change
            from end to end, in the values' unit.
        z: Mann-Kendall statistic in standard deviations, ties allowed for; negative when the
            series falls.
        spread: Largest value minus the smallest.
    """

    change: float
    z: float
    spread: float


def trend(values: Float) -> Trend:
    """The trend of an evenly spaced series.

    Args:
        values: Finite float64, shape (n,) with n >= 3.

    Returns:
        Its trend.
    """
    n = len(values)
    i, j = np.triu_indices(n, 1)
    differences = values[j] - values[i]
    slope = float(np.median(differences / (j - i)))
    score = float(np.sign(differences).sum())
    ties = np.unique(values, return_counts=True)[1]
    variance = (n * (n - 1) * (2 * n + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    # One is taken off the score as continuity correction, since it moves in steps of two.
    z = 0.0 if variance == 0 else (score - math.copysign(1.0, score)) / math.sqrt(variance)
    return Trend(slope * (n - 1), z if score else 0.0, float(np.ptp(values)))
