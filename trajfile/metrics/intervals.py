"""How far a statistic of a correlated series can be trusted.

Consecutive steps of a run resemble each other, so n of them are worth fewer independent ones:
n/τ *effective windows*, with the integrated autocorrelation time τ = 1 + 2 Σ_k ρ_k. The sum is cut
where the sum of two neighbouring ρ_k first is no longer positive, and its terms are kept from
rising (the initial monotone sequence of Geyer 1992). Subtracting the sample mean makes every ρ_k
too small by τ/n, which is put back. Intervals are Student's, with the windows less one as degrees
of freedom. Nothing is drawn at random, so the same run gives the same interval.

A series with a trend has few windows and a wide interval, as it should: its mean is that of this
run and of no other. With fewer than two windows there is no spread to tell by, and the interval is
the whole range of the values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from trajfile.metrics.robust import at_quantile, middle
from trajfile.report import number

Float = NDArray[np.float64]

#: What every interval of a report is said to be, in its notes.
LEVEL = 0.95

#: Largest share of the variance that the sample mean is taken to have absorbed.
_MOST_ABSORBED = 0.5
#: How often τ and the correction that needs it are put into each other.
_ROUNDS = 4
#: Longest series whose products at all lags are quicker summed than by Fourier transform.
_SHORT = 512


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


def student(windows: float) -> float:
    """Half-width of a 95 % interval in standard errors, from so many independent windows.

    Args:
        windows: Their number, at least 2 for a finite answer.

    Returns:
        The 97.5 % quantile of Student's t with windows - 1 degrees of freedom; infinite below 2.
    """
    return float(stdtrit(windows - 1, 0.5 + LEVEL / 2)) if windows >= 2 else math.inf


def effective_windows(values: Float) -> float:
    """How many independent values a correlated series is worth: n/τ.

    Args:
        values: float64, shape (n,), in order of time; what is not finite is left out.

    Returns:
        Between 0 and n. A series that alternates counts as independent (τ = 1), so that an
        interval is never too narrow on its account; so does a constant one.
    """
    return _effective_windows(values[np.isfinite(values)])


def _effective_windows(kept: Float) -> float:
    n = len(kept)
    if n < 3 or kept.max() == kept.min():
        return float(n)
    centred = kept - kept.mean()
    # No BLAS: its threads, once woken, take the processor from those that read and multiply.
    square = float((centred * centred).sum())
    if not square > 0 or float((centred[1:] * centred[:-1]).sum()) <= 0:
        return float(n)  # it alternates, or its spread is one of rounding errors
    raw = _products(centred) / square
    even = n - n % 2
    positive = raw[:even:2] + raw[1:even:2] > 0
    count = int(np.argmin(positive)) if not positive.all() else len(positive)
    raw = raw[: 2 * count]
    # Fewer products stand behind a long lag.
    fading = np.maximum(1 - np.arange(2 * count) / n, 0.5)
    tau = 1.0
    for _ in range(_ROUNDS):
        absorbed = min(tau / n, _MOST_ABSORBED)
        rho = np.minimum((raw * (1 - absorbed) + absorbed) / fading, 1.0)
        pairs = np.minimum.accumulate(rho[::2] + rho[1::2])
        tau = min(max(2 * float(pairs.sum()) - 1, 1.0), float(n))
    return n / tau


def _products(centred: Float) -> Float:
    """The sum of the products at each lag from 0 on."""
    n = len(centred)
    if n <= _SHORT:
        return np.correlate(centred, centred, "full")[n - 1 :]
    size = 1 << (2 * n - 1).bit_length()  # a length of large prime factors takes ten times as long
    spectrum = np.fft.rfft(centred, size)
    return np.fft.irfft(spectrum * spectrum.conj(), size)[:n]


def mean_interval(values: Float) -> Interval:
    """Interval of the mean of a correlated series.

    Args:
        values: float64, shape (n,), in order of time; what is not finite is left out.

    Returns:
        mean ± t·s/√windows, with s² the variance, made unbiased for that many windows.
    """
    kept = values[np.isfinite(values)]
    if not len(kept):
        return Interval(math.nan, math.nan, 0.0)
    return _about(float(kept.mean()), kept, _effective_windows(kept))


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
    known = np.isfinite(above) & np.isfinite(below)
    above, below = above[known], below[known]
    if not len(below) or not below.sum() > 0:
        return Interval(math.nan, math.nan, 0.0)
    ratio = float(above.sum() / below.sum())
    rest = (above - ratio * below) / below.mean()
    return _about(ratio, rest, _effective_windows(rest))


def median_interval(values: Float) -> Interval:
    """Interval of the median of a correlated series, from its order statistics.

    The number of values below the true median has standard deviation n/(2√windows), the windows
    being those of the series that only says on which side of the median each value lies.

    Args:
        values: float64, shape (n,), in order of time; what is not finite is left out.

    Returns:
        The order statistics that many standard deviations to either side of the middle.
    """
    kept = values[np.isfinite(values)]
    if not len(kept):
        return Interval(math.nan, math.nan, 0.0)
    ordered = np.sort(kept)
    windows = _effective_windows(np.sign(kept - middle(ordered)))
    if windows < 2:
        return _range(kept, windows)
    half = student(windows) * 0.5 / math.sqrt(windows)
    low, high = (at_quantile(ordered, share) for share in (max(0.5 - half, 0), min(0.5 + half, 1)))
    return Interval(low, high, windows)


def fraction_interval(hits: float, windows: float) -> Interval:
    """Wilson's interval of the share of rows in which something holds.

    Unlike a mean's it is not empty where the share is 0 or 1.

    Args:
        hits: The share, in [0, 1].
        windows: Effective number of windows it is a share of.

    Returns:
        The interval, within [0, 1]: all of that below two windows, none without any.
    """
    if not windows > 0 or not math.isfinite(hits):
        return Interval(math.nan, math.nan, windows)
    if windows < 2:
        return Interval(0.0, 1.0, windows)
    square = student(windows) ** 2 / windows
    middle = (hits + square / 2) / (1 + square)
    half = math.sqrt(square * (hits * (1 - hits) + square / 4)) / (1 + square)
    return Interval(max(middle - half, 0.0), min(middle + half, 1.0), windows)


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


def _about(value: float, series: Float, windows: float) -> Interval:
    """Student's interval about a value, from the spread of a series and its windows."""
    if windows < 2:
        return _range(series + (value - series.mean()), windows)
    half = student(windows) * float(series.std()) / math.sqrt(windows - 1)
    return Interval(value - half, value + half, windows)


def _range(values: Float, windows: float) -> Interval:
    """All of the values, two at least."""
    if len(values) < 2:
        return Interval(math.nan, math.nan, windows)
    return Interval(float(values.min()), float(values.max()), windows)
