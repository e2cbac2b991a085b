"""Spectrum of the covariance of a few gradients, and how far so few can be trusted.

With L gradients the covariance is known through the centred L x L Gram matrix alone. What another
draw of gradients would have given is judged by leaving each out in turn (the jackknife); the Gram
matrix without sample j, centred anew, follows from the whole one, so nothing is read again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.metrics.intervals import Interval, jackknife_interval

Float = NDArray[np.float64]

#: Of more samples than this, groups of equal size are left out: L eigenproblems cost L^4.
_MOST_LEFT_OUT = 24


@dataclass(frozen=True)
class Spectrum:
    """The covariance K of the gradients at one step; NaN throughout where it cannot be had.

    Attributes:
        top: λ₁, its largest eigenvalue.
        least: λ*, its smallest non-zero one; NaN if all are zero.
        trace: Sum of the eigenvalues.
        rank: How many are not zero, at most L - 1.
        top_range: 95 % interval of λ₁.
        trace_range: 95 % interval of the trace.
        top_bias: How much of λ₁ the jackknife puts down to the samples being few, as a share.
    """

    top: float
    least: float
    trace: float
    rank: int
    top_range: Interval
    trace_range: Interval
    top_bias: float


_NO_INTERVAL = Interval(math.nan, math.nan, 0.0)
UNKNOWN = Spectrum(math.nan, math.nan, math.nan, 0, _NO_INTERVAL, _NO_INTERVAL, math.nan)


def spectrum(gram: Float, *, fewest: int, unbiased: bool, tolerance: float) -> Spectrum:
    """The spectrum of K = (1/L) Σ (g_i − ḡ)(g_i − ḡ)ᵀ.

    Args:
        gram: ⟨g_i − ḡ, g_j − ḡ⟩, float64, shape (L, L).
        fewest: With fewer samples there is none.
        unbiased: Divide by L - 1 instead of L.
        tolerance: Eigenvalues at or below this share of the largest count as zero.

    Returns:
        The spectrum; `UNKNOWN` with too few samples or a value that is not finite.
    """
    count = len(gram)
    if count < fewest or not np.isfinite(gram).all():
        return UNKNOWN
    values = np.linalg.eigvalsh(gram)[::-1] / (count - unbiased)
    top = max(float(values[0]), 0.0)
    # The mean is taken off, so at most L - 1 eigenvalues differ from zero.
    rank = min(count - 1, int((values > tolerance * top).sum()))
    trace = float(np.maximum(values, 0.0).sum())
    if not rank:
        return Spectrum(top, math.nan, trace, 0, _NO_INTERVAL, _NO_INTERVAL, math.nan)
    without = _left_out(gram, unbiased)
    # Eigenvalues are positive and scatter in proportion to their size, so intervals are of
    # their logarithm.
    with np.errstate(divide="ignore"):
        logs = np.log(without)
    shift = (len(logs) - 1) * (math.log(top) - float(logs[:, 0].mean()))
    return Spectrum(
        top,
        float(values[rank - 1]),
        trace,
        rank,
        _exp(jackknife_interval(math.log(top), logs[:, 0])),
        _exp(jackknife_interval(math.log(trace), logs[:, 1])),
        -math.expm1(shift) if math.isfinite(shift) else math.nan,
    )


def _left_out(gram: Float, unbiased: bool) -> Float:
    """λ₁ and the trace without each sample, or group of samples, in turn, shape (groups, 2)."""
    count = len(gram)
    kept = []
    for group in np.array_split(np.arange(count), min(count, _MOST_LEFT_OUT)):
        inside = np.delete(np.arange(count), group)
        rest = gram[np.ix_(inside, inside)]
        rest = rest - rest.mean(axis=0) - rest.mean(axis=1)[:, None] + rest.mean()
        divisor = len(inside) - unbiased
        top = max(float(np.linalg.eigvalsh(rest)[-1]), 0.0)
        kept.append((top / divisor, max(float(np.trace(rest)), 0.0) / divisor))
    return np.array(kept)


def _exp(interval: Interval) -> Interval:
    """The interval of a positive quantity from that of its logarithm."""
    with np.errstate(over="ignore"):
        low, high = np.exp([interval.low, interval.high])
    return Interval(float(low), float(high), interval.windows)
