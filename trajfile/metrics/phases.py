"""Two phases of a run: the loss falls, and then something else goes on at its floor."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trajfile.metrics.changes import find_changes
from trajfile.metrics.intervals import effective_windows, student
from trajfile.metrics.smoothing import running_median

Float = NDArray[np.float64]
Steps = NDArray[np.int64]

#: Longer losses are reduced to about so many medians first: their course needs no more.
_MOST_LOSSES = 10_000
#: Fewest losses, and fewest points of a slope, that can show anything.
_FEWEST_LOSSES = 10
_FEWEST_POINTS = 5


@dataclass(frozen=True)
class Floor:
    """Where the loss reaches its floor.

    Attributes:
        step: First step from which it stays there, by the rule.
        low: First step at which a change point puts it; None if none confirms the rule.
        high: Last step at which it does.
        agreed: Whether both lie within a factor of two of each other, or none confirms the rule.
    """

    step: int
    low: int | None
    high: int | None
    agreed: bool = True


def floor_reached(
    steps: Steps, loss: Float, *, fraction: float, smoothing: float, tail: float = 0.1
) -> Floor | None:
    """The first step from which the loss stays at its floor.

    The floor is the median of the smoothed loss over the last `tail` of the run. The step is the
    first one after which (L - L_floor)/(L_0 - L_floor) < fraction for good; if that lies within
    the tail itself, the run may have been still on its way down, and there is none.

    One crossing of a threshold is at the mercy of noise, so the rule is checked: ln(L - L_floor),
    not followed below the noise of the tail, is cut into straight lines at its change points, and
    the first line from which on all lie below the threshold in their medians has to begin with a
    change.

    Args:
        steps: Steps of the losses, int64, shape (n,).
        loss: The losses, float64, shape (n,); what is not finite is left out.
        fraction: How much of the way down may be left.
        smoothing: Width of the running median as a share of the losses.
        tail: Share of the losses, from the end, that gives the floor.

    Returns:
        The step and its check, or None if the losses do not show one.
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
    drop = float(loss[0]) - floor
    above = np.flatnonzero((smooth - floor) / drop >= fraction)
    if len(above) == 0 or above[-1] + 1 >= len(loss) - last:
        return None
    scatter = 1.4826 * float(np.median(np.abs(loss[-last:] - floor)))
    left = np.maximum(loss - floor, max(scatter, fraction / 10 * drop))
    span = _confirmed(np.log(left / drop), np.log(max(fraction, 2 * scatter / drop)))
    step = int(steps[above[-1] + 1])
    if span is None:
        return Floor(step, None, None)
    low, high = int(steps[span[0]]), int(steps[min(span[1], len(steps) - 1)])
    after = [each - int(steps[0]) for each in (step, low, high)]
    near = abs(int(above[-1]) + 1 - span[0]) <= _FEWEST_POINTS  # a change point sees no nearer
    return Floor(step, low, high, near or after[1] / 2 <= after[0] <= 2 * after[2])


def _confirmed(log: Float, level: float) -> tuple[int, int] | None:
    """Where the change lies after which every line is below the level; None without one."""
    changes = find_changes(log, lines=True, least=_FEWEST_POINTS)
    edges = [*(change.index for change in changes), len(log)]
    found = None
    for change, (start, stop) in zip(
        reversed(changes), reversed(list(pairwise(edges))), strict=True
    ):
        if np.median(log[start:stop]) > level:
            break
        found = change.low, change.high
    return found


@dataclass(frozen=True)
class Slope:
    """A least-squares line through points in order of time.

    Attributes:
        value: Its slope.
        error: Standard error of the slope, from the scatter around the line and the number of
            independent windows that this scatter is worth.
        span: Largest x minus the smallest.
        windows: That number.
    """

    value: float
    error: float
    span: float
    windows: float

    @property
    def half_width(self) -> float:
        """Of the slope's 95 % interval; infinite with fewer than three windows."""
        # A line takes two parameters from the windows, and `student` takes one itself.
        return student(self.windows - 1) * self.error if self.error else 0.0

    @property
    def interval(self) -> list[float] | None:
        """The 95 % interval; None where too few windows show none."""
        half = self.half_width
        return [self.value - half, self.value + half] if np.isfinite(half) else None


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
    windows = effective_windows(scatter)
    # Of so many windows the line has taken two.
    rest = max(windows - 2, 1.0)
    error = float(np.sqrt(float(scatter @ scatter) / spread / rest))
    return Slope(value, error, float(x[-1] - x[0]), windows)


def is_steeper(after: Slope, before: Slope, least_drop: float) -> bool | None:
    """Whether y falls after, by enough to matter, and clearly faster than before.

    Clearly is by more than a tenth, and beyond what chance may do: two standard errors of the
    difference.

    Args:
        after: Line after the boundary.
        before: Line before it.
        least_drop: Smallest fall of y over the line's span that matters.

    Returns:
        True if all of it holds, None if it does but for chance, False otherwise.
    """
    chance = 2 * float(np.hypot(after.error, before.error))
    falls = -after.value * after.span >= least_drop
    if not falls or after.value >= before.value - 0.1 * abs(before.value):
        return False
    return True if after.value < before.value - chance else None
