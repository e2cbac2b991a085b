"""Does the sharpness hover at the stability threshold? Decided on the last part of a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.metrics.smoothing import running_median

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Edge:
    """The evidence on where the sharpness stands against its threshold.

    Attributes:
        at_edge: True: it hovers there. False: it clearly does not. None: the data cannot tell.
        median: Median of sharpness/threshold over the last part, NaN without samples.
        inside: Share of the last part's ratios that lie within the band.
        samples: Number of ratios in the last part.
        since: Step from which the smoothed ratio stays at or above the band's lower end; None
            unless `at_edge`.
    """

    at_edge: bool | None
    median: float
    inside: float
    samples: int
    since: int | None


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

    A lower bound inside the band shows the edge; one below it shows nothing, and one above it is
    either a run that diverges or an overshoot, so it shows nothing either.

    Args:
        steps: Steps of the ratios, int64, shape (n,).
        ratio: Sharpness / threshold, float64, shape (n,); what is not finite is left out.
        lower_bound: Whether the sharpness is only bounded from below.
        band: Lowest and highest ratio that counts as hovering at the threshold.
        part: Share of the samples, from the end, that decides.
        least: Fewest samples that can decide.

    Returns:
        The evidence and the verdict.
    """
    known = np.isfinite(ratio)
    steps, ratio = steps[known], ratio[known]
    count = min(len(ratio), max(least, round(part * len(ratio))))
    if count == 0:
        return Edge(None, float("nan"), 0.0, 0, None)
    tail = ratio[-count:]
    median = float(np.median(tail))
    inside = float(np.mean((tail >= band[0]) & (tail <= band[1])))
    if count < least:
        return Edge(None, median, inside, count, None)
    if band[0] <= median <= band[1] and inside > 0.5:
        smooth = running_median(ratio, least)
        below = np.flatnonzero(smooth < band[0])
        since = int(steps[below[-1] + 1]) if len(below) and below[-1] + 1 < len(steps) else None
        return Edge(True, median, inside, count, int(steps[0]) if not len(below) else since)
    clearly_off = not lower_bound and not band[0] <= median <= band[1]
    return Edge(False if clearly_off else None, median, inside, count, None)
