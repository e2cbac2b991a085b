"""Where the largest eigenvalue of the gradient covariance stopped rising and began to fall.

One step's λ₁ of a dozen gradients scatters by a third, so no single step decides. The logarithm of
λ₁ is cut into stretches of one level where noise cannot account for the change; the break-even
point lies in the highest of them, if the run both rose to it and fell from it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trajfile.metrics.changes import find_changes
from trajfile.metrics.smoothing import running_median

Float = NDArray[np.float64]

#: Standard deviation over median of |x| for normal x, and of a value over that of its second
#: difference x_i - (x_{i-1} + x_{i+1})/2.
_NORMAL, _SECOND = 1.4826, math.sqrt(1 / 1.5)
#: A value so many standard deviations from its neighbours' median is drawn in to that distance.
_ODD = 2.0


@dataclass(frozen=True)
class BreakEven:
    """The break-even point, and what it rests on.

    Attributes:
        step: Where λ₁ is largest within its highest stretch; None if undetermined.
        first: First step of that stretch.
        last: Last step of it.
        rise: Level of that stretch over that of the first stretch.
        fall: Level of that stretch over that of the last stretch.
        stretches: How many stretches there are.
        reason: Why it is undetermined; None otherwise.
    """

    step: int | None
    first: int | None = None
    last: int | None = None
    rise: float = math.nan
    fall: float = math.nan
    stretches: int = 0
    reason: str | None = None


def find_break_even(
    steps: NDArray[np.int64], top: Float, *, fewest: int, stretch: int, penalty: float, rise: float
) -> BreakEven:
    """Judge the course of λ₁.

    Args:
        steps: Steps with samples, increasing, int64, shape (n,).
        top: λ₁ at each, float64, shape (n,); what is not finite or not positive is left out.
        fewest: Fewest values that can show a break-even point.
        stretch: Fewest values in a stretch.
        penalty: What a change must win; see `find_changes`.
        rise: By which factor the highest stretch has to exceed the first and the last.

    Returns:
        The point, or why there is none to be named.
    """
    known = np.isfinite(top) & (top > 0)
    steps, top = steps[known], top[known]
    if len(top) < fewest:
        return BreakEven(
            None,
            reason=f"a break-even point needs λ₁ at {fewest} steps or more; found {len(top)}",
        )
    log = np.log(top)
    noise = _NORMAL * _SECOND * float(np.median(np.abs(log[1:-1] - (log[:-2] + log[2:]) / 2)))
    middle = running_median(log, 5)
    log = np.clip(log, middle - _ODD * noise, middle + _ODD * noise)
    # Each step has its own draw of gradients, so what scatters is independent.
    changes = find_changes(log, least=stretch, penalty=penalty, noise=noise)
    edges = [0, *(change.index for change in changes), len(log)]
    levels = np.array([log[a:b].mean() for a, b in pairwise(edges)])
    highest = int(np.argmax(levels))
    start, stop = edges[highest], edges[highest + 1]
    above = math.exp(levels[highest] - levels[0]), math.exp(levels[highest] - levels[-1])
    if len(levels) == 1:
        reason: str | None = (
            f"over {stretch} steps or more λ₁ does not change its level by more than its scatter"
        )
    elif highest == len(levels) - 1:
        reason = "λ₁ is at its highest at the end of the run, so it may still be rising"
    elif highest == 0:
        reason = "λ₁ is at its highest at the start of the recording, so its rise was not seen"
    elif min(above) < rise:
        reason = f"λ₁ stands out by a factor of {min(above):.3g} only; {rise:.3g} is asked for"
    else:
        reason = None
    peak = start + int(np.argmax(top[start:stop]))
    return BreakEven(
        int(steps[peak]) if reason is None else None,
        int(steps[start]) if reason is None else None,
        int(steps[stop - 1]) if reason is None else None,
        *above,
        len(levels),
        reason,
    )
