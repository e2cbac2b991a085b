"""Values far beyond those just before them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajfile.metrics.smoothing import running_median

Float = NDArray[np.float64]
Steps = NDArray[np.int64]


def spike_factor(values: Float, window: int) -> Float:
    """Each value over the median of the `window` values before it.

    Args:
        values: Positive where known, float64, shape (n,).
        window: How many.

    Returns:
        float64, shape (n,); NaN in the first half window, for want of values, and where unknown.
    """
    centred = running_median(values, window)
    shift = min(window // 2 + 1, len(values))
    usual = np.concatenate([np.full(shift, np.nan), centred[: len(values) - shift]])
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = values / usual
    return np.where(np.isfinite(factor), factor, np.nan)


def largest_within(steps: Steps, at: Steps, values: Float) -> Float:
    """The largest value from each step to the next.

    Args:
        steps: Edges, increasing, int64, shape (n,) with n >= 2.
        at: Steps of the values, increasing, int64, shape (m,).
        values: float64, shape (m,); what is NaN is left out.

    Returns:
        float64, shape (n-1,): the largest at a step in [steps[i], steps[i+1]], both included, for
        what an update does to the loss shows at the next step; -inf where there is none.
    """
    known = np.isfinite(values)
    at, values = at[known], values[known]
    largest = np.full(len(steps) - 1, -np.inf)
    first = np.searchsorted(at, steps[:-1], side="left")
    last = np.searchsorted(at, steps[1:], side="right")
    some = last > first
    if some.any():
        # reduceat takes each slice [edge, next edge): every other one is a stride's own.
        edges = np.stack([first[some], last[some]], axis=1).ravel()
        padded = np.append(values, -np.inf)
        largest[some] = np.maximum.reduceat(padded, edges)[::2]
    return largest
