"""Does the sharpness hover at the stability threshold? Decided by where its course levels off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trajfile.metrics.changes import find_changes
from trajfile.metrics.intervals import Interval, median_interval
from trajfile.metrics.robust import median
from trajfile.metrics.smoothing import running_median

Float = NDArray[np.float64]

#: Share of the ratios that lie to one side of the band where a measured sharpness stays off it.
_CLEARLY = 0.9
#: Share of a plateau's ratios that must lie in the band: what swings across it does not hover.
_HOVERS = 0.75
#: Departures of the ratio from a line that are not worth a change.
_LEVEL = 0.02
#: Width of the running median that takes out odd ratios.
_ODD = 5


@dataclass(frozen=True)
class Edge:
    """The evidence on where the sharpness stands against its threshold.

    Attributes:
        at_edge: True: it hovers there. False: it clearly does not. None: the data cannot tell.
        median: Median of sharpness/threshold over the plateau, or over the last part of the run
            where there is no plateau in the band; NaN without samples.
        interval: 95 % interval of that median.
        inside: Share of those ratios that lie within the band.
        samples: Number of those ratios.
        since: Step at which the plateau begins; None unless `at_edge`.
        since_range: First and last step at which it may as well begin; None unless `at_edge`.
    """

    at_edge: bool | None
    median: float
    interval: Interval
    inside: float
    samples: int
    since: int | None = None
    since_range: tuple[int, int] | None = None


def judge_edge(
    steps: NDArray[np.int64],
    ratio: Float,
    *,
    lower_bound: bool,
    band: tuple[float, float],
    part: float,
    least: int,
) -> Edge:
    """Judge the ratios of sharpness to threshold.

    The course of the ratio is cut into straight lines at its change points. The last lines that lie
    in the band from end to end are the plateau that follows progressive sharpening; the run is at
    the edge if the interval of the plateau's median lies in the band as a whole, and so do three
    quarters of its ratios.

    A lower bound inside the band shows the edge; one below it shows nothing, and one above it is
    either a run that diverges or an overshoot, so it shows nothing either.

    Args:
        steps: Steps of the ratios, int64, shape (n,).
        ratio: Sharpness / threshold, float64, shape (n,); what is not finite is left out.
        lower_bound: Whether the sharpness is only bounded from below.
        band: Lowest and highest ratio that counts as hovering at the threshold.
        part: Share of the samples, from the end, that is described where there is no plateau.
        least: Fewest samples that can decide.

    Returns:
        The evidence and the verdict.
    """
    known = np.isfinite(ratio)
    steps, ratio = steps[known], ratio[known]
    start, first, last = _plateau(ratio, band, least)
    if len(ratio) - start >= least:
        median, interval, inside = _middle(ratio[start:], band)
        if inside >= _HOVERS and band[0] <= interval.low and interval.high <= band[1]:
            since = int(steps[start])
            span = int(steps[first]), int(steps[last])
            return Edge(True, median, interval, inside, len(ratio) - start, since, span)
    count = min(len(ratio), max(least, round(part * len(ratio))))
    if count == 0:
        return Edge(None, math.nan, Interval(math.nan, math.nan, 0.0), 0.0, 0)
    tail = ratio[-count:]
    median, interval, inside = _middle(tail, band)
    off = max(np.mean(tail < band[0]), np.mean(tail > band[1])) >= _CLEARLY
    verdict = False if off and not lower_bound and count >= least else None
    return Edge(verdict, median, interval, inside, count)


def _plateau(ratio: Float, band: tuple[float, float], least: int) -> tuple[int, int, int]:
    """Where the last lines within the band begin, and the range of that; (n, n, n) for none."""
    n = len(ratio)
    # A lower bound may fall to nothing or below for a while; how far does not matter.
    held = running_median(np.clip(ratio, 0.0, 2 * band[1]), _ODD)
    changes = find_changes(held, lines=True, least=least, floor=_LEVEL)
    edges = [0, *(change.index for change in changes), n]
    at = n, n, n
    ranges = [(0, 0), *((change.low, min(change.high, n - 1)) for change in changes)]
    for (start, stop), (low, high) in zip(
        reversed(list(pairwise(edges))), reversed(ranges), strict=True
    ):
        if stop == start or not all(band[0] <= end <= band[1] for end in _ends(held[start:stop])):
            break
        at = start, low, high
    return at


def _ends(values: Float) -> tuple[float, float]:
    """Both ends of the straight line through values."""
    at = np.arange(len(values)) - (len(values) - 1) / 2
    spread = float((at * at).sum())
    slope = float((at * values).sum()) / spread if spread else 0.0
    middle, half = float(values.mean()), slope * (len(values) - 1) / 2
    return middle - half, middle + half


def _middle(ratio: Float, band: tuple[float, float]) -> tuple[float, Interval, float]:
    """Median, its interval, and the share inside the band."""
    inside = float(np.mean((ratio >= band[0]) & (ratio <= band[1])))
    return median(ratio), median_interval(ratio), inside
