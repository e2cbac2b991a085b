"""Where a noisy series changes its level or its trend.

The series is cut into stretches, each a constant or a straight line in its index, so that the
sum of squared residuals plus a penalty per change is least: exact optimal partitioning (Jackson et
al. 2005) by dynamic programming, the costs of all stretches from cumulative sums. The penalty is
BIC-like, a multiple of σ² ln n, with σ² the noise's variance times its correlation time, estimated
robustly from differences of near values (form after Chakar et al. 2017), so that correlated noise
is seldom taken for changes. The places are as certain as the likelihood says: within the interval
of a change, moving it costs less than 3.84 σ² (95 %, one parameter).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.metrics.robust import median

Float = NDArray[np.float64]

#: Longer series are averaged over blocks first; a place is then known to a block.
_MOST_POINTS = 512
#: Ends of stretches whose costs are formed together.
_TOGETHER = 32
#: Largest correlation of neighbours that noise is taken to have.
_MOST_CORRELATED = 0.9
#: Correlations among which it is looked for.
_PHI = np.linspace(0, _MOST_CORRELATED, 91)
#: Added to it, over √n, for what a short series may hide.
_CAUTION = 0.5
#: Median of |x| over the standard deviation, for normal x.
_MEDIAN_ABSOLUTE = 0.6744897501960817
#: 95 % quantile of χ² with one degree of freedom.
_LIKELIHOOD = 3.841458820694124


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        index: First index of the stretch after it.
        low: First index at which it may as well lie (95 %).
        high: Last one.
    """

    index: int
    low: int
    high: int


def noise_variance(values: Float, *, lines: bool = False) -> float:
    """Long-run variance of the noise about a course that is smooth but for a few changes.

    Noise with correlation φ between neighbours has differences of variance D₁ = 2σ²(1-φ) at lag 1
    and D₂ = 2σ²(1-φ²) at lag 2, so that D₂/D₁ = 1+φ; second differences, which straight lines
    leave alone, have 2σ²(1-φ)(3-φ) and 2σ²(1-φ²)(3-φ²). The long-run variance is σ²(1+φ)/(1-φ).
    Each variance comes from a median absolute deviation, which a few changes leave alone.

    Args:
        values: Finite float64, shape (n,), n >= 6.
        lines: Whether the course is made of lines of different slopes rather than of levels.

    Returns:
        In the values' unit squared; 0 for a straight line. Noise that alternates counts as
        independent.
    """
    if lines:
        near = _spread(values[2:] - 2 * values[1:-1] + values[:-2])
        far = _spread(values[4:] - 2 * values[2:-2] + values[:-4])
    else:
        near, far = _spread(values[1:] - values[:-1]), _spread(values[2:] - values[:-2])
    if near == 0:
        return 0.0
    ratio = (1 + _PHI) * ((3 - _PHI**2) / (3 - _PHI) if lines else 1)
    excess = _CAUTION / math.sqrt(len(values))
    phi = min(float(np.interp(far / near, ratio, _PHI)) + excess, _MOST_CORRELATED)
    sigma = near / (2 * (1 - phi) * ((3 - phi) if lines else 1))
    return sigma * (1 + phi) / (1 - phi)


def _spread(differences: Float) -> float:
    """Variance of normal values with these values' median absolute deviation."""
    deviation = median(np.abs(differences - median(differences)))
    return (deviation / _MEDIAN_ABSOLUTE) ** 2


def find_changes(
    values: Float,
    *,
    lines: bool = False,
    least: int = 5,
    penalty: float = 5.0,
    floor: float = 0.0,
    noise: float | None = None,
) -> list[Change]:
    """The changes of a series.

    Args:
        values: Finite float64, shape (n,), evenly spaced or nearly so.
        lines: Whether a stretch is a straight line rather than a constant.
        least: Fewest values in a stretch, at least 3.
        penalty: What a change must win in squared residuals, in units of σ² ln n.
        floor: Smallest σ to reckon with: a smooth curve has none, and would be cut wherever it
            bends. In the values' unit.
        noise: σ of a value where its noise is known to be independent from one to the next;
            otherwise it is estimated, correlations included.

    Returns:
        In order of time; none in a series of fewer than two stretches' length.
    """
    width = -(-len(values) // _MOST_POINTS)
    if not width:
        return []
    whole = len(values) // width * width
    averages = values[:whole].reshape(-1, width).mean(axis=1) if width > 1 else values
    n = len(averages)
    least = max(least if width == 1 else -(-least // width), 3)
    if n < 2 * least or not np.ptp(averages) > 0:
        return []
    # Rounding leaves even a straight line with residuals.
    rounding = (1e-6 * float(np.ptp(averages))) ** 2
    variance = noise_variance(averages, lines=lines) if noise is None else noise**2 / width
    variance = max(variance, rounding, floor**2 / width)
    costs = _costs(averages - averages.mean(), lines)
    starts = _partition(costs, least, penalty * variance * math.log(n))
    edges = [0, *starts, n]
    found = []
    for before, at, after in zip(edges, starts, edges[2:], strict=False):
        places = np.arange(before + least, after - least + 1)
        loss = costs[places, before] + costs[after, places]
        near = places[loss <= loss.min() + _LIKELIHOOD * variance]
        low, high = min(int(near[0]), at), max(int(near[-1]), at)
        found.append(Change(at * width, low * width, high * width + width - 1))
    return found


def _costs(values: Float, lines: bool) -> Float:
    """Squared residuals of each stretch [i, j), float64, shape (n + 1, n + 1), at [j, i].

    Args:
        values: float64, shape (n,).
        lines: As in `find_changes`.

    Returns:
        Infinite where a stretch is empty.
    """
    n = len(values)
    at = np.arange(n) - (n - 1) / 2
    parts = [np.ones(n), values, values**2, *([at, at**2, at * values] if lines else [])]
    sums = [np.concatenate([[0.0], np.cumsum(part)]) for part in parts]
    costs = np.full((n + 1, n + 1), np.inf)
    # Some rows at a time stay in the cache, and stretches that end before they begin are left out.
    for low in range(1, n + 1, _TOGETHER):
        high = min(low + _TOGETHER, n + 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            count, y, yy, *moments = (s[low:high, None] - s[:high] for s in sums)
            cost = yy - y**2 / count
            if moments:
                t, tt, ty = moments
                spread = tt - t**2 / count
                cost = cost - np.where(spread > 0, (ty - t * y / count) ** 2 / spread, 0.0)
        costs[low:high, :high] = np.where(count > 0, np.maximum(cost, 0.0), np.inf)
    return costs


def _partition(costs: Float, least: int, penalty: float) -> list[int]:
    """Starts of all stretches but the first, of the cheapest partition."""
    n = len(costs) - 1
    best = np.full(n + 1, np.inf)
    best[0] = -penalty
    origin = [0] * (n + 1)
    for end in range(least, n + 1):
        total = best[: end - least + 1] + costs[end, : end - least + 1]
        total += penalty
        origin[end] = start = int(total.argmin())
        best[end] = total[start]
    starts: list[int] = []
    end = origin[n]
    while end > 0:
        starts.append(end)
        end = origin[end]
    return starts[::-1]
