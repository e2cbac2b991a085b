"""Two phases of a run: the loss falls, and then something else goes on at its floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.metrics.smoothing import running_median

Float = NDArray[np.float64]
Steps = NDArray[np.int64]

#: Longer losses are reduced to about so many medians first: their course needs no more.
_MOST_LOSSES = 10_000
#: Fewest losses, and fewest points of a slope, that can show anything.
_FEWEST_LOSSES = 10
_FEWEST_POINTS = 5


def floor_reached(
    steps: Steps, loss: Float, *, fraction: float, smoothing: float, tail: float = 0.1
) -> int | None:
    """The first step from which the loss stays at its floor.

    The floor is the median of the smoothed loss over the last `tail` of the run. The step is the
    first one after which (L - L_floor)/(L_0 - L_floor) < fraction for good; if that lies within
    the tail itself, the run may have been still on its way down, and there is none.

    Args:
        steps: Steps of the losses, int64, shape (n,).
        loss: The losses, float64, shape (n,); what is not finite is left out.
        fraction: How much of the way down may be left.
        smoothing: Width of the running median as a share of the losses.
        tail: Share of the losses, from the end, that gives the floor.

    Returns:
        The step, or None if the losses do not show one.
    """
    known = np.isfinite(loss)
    steps, loss = steps[known], loss[known]
    if len(loss) < _FEWEST_LOSSES:
        return None
    width = -(-len(loss) // _MOST_LOSSES)
    if width > 1:
        whole = len(loss) // width * width  # the last few, less than a block, are left out
        steps = steps[:whole:width]
        start, loss = loss[0], np.median(loss[:whole].reshape(-1, width), axis=1)
        loss[0] = start
    smooth = running_median(loss, round(smoothing * len(loss)))
    last = max(round(tail * len(loss)), 3)
    floor = float(np.median(smooth[-last:]))
    if not loss[0] > floor:
        return None
    above = np.flatnonzero((smooth - floor) / (loss[0] - floor) >= fraction)
    if len(above) == 0 or above[-1] + 1 >= len(loss) - last:
        return None
    return int(steps[above[-1] + 1])


@dataclass(frozen=True)
class Slope:
    """A least-squares line through points.

    Attributes:
        value: Its slope.
        error: Standard error of the slope, from the scatter around the line.
        span: Largest x minus the smallest.
    """

    value: float
    error: float
    span: float


def slope(x: Float, y: Float) -> Slope | None:
    """The slope of y over x.

    Args:
        x: float64, shape (n,), increasing.
        y: float64, shape (n,); points that are not finite are left out.

    Returns:
        The line, or None with fewer than five points.
    """
    known = np.isfinite(y)
    x, y = x[known], y[known]
    if len(x) < _FEWEST_POINTS:
        return None
    dx, dy = x - x.mean(), y - y.mean()
    spread = float(dx @ dx)
    value = float(dx @ dy) / spread
    scatter = dy - value * dx
    error = float(np.sqrt(scatter @ scatter / (len(x) - 2) / spread))
    return Slope(value, error, float(x[-1] - x[0]))


def is_steeper(after: Slope, before: Slope, least_drop: float) -> bool:
    """Whether y falls after, by enough to matter, and clearly faster than before.

    Clearly is by more than two standard errors and by more than a tenth.

    Args:
        after: Line after the boundary.
        before: Line before it.
        least_drop: Smallest fall of y over the line's span that matters.

    Returns:
        True if all of it holds.
    """
    margin = max(2 * float(np.hypot(after.error, before.error)), 0.1 * abs(before.value))
    falls = -after.value * after.span >= least_drop
    return falls and after.value < before.value - margin
