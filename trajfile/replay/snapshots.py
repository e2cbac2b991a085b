"""Which snapshots to replay: half of them evenly spread, the rest where the values move most."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise


def visit(count: int, budget: int, measure: Callable[[int], float]) -> dict[int, float]:
    """Measure a quantity at some of `count` places.

    Half of the budget is spread evenly, the first and last place among them. Each further place
    halves the interval over which the quantity changed most; where nothing changes, the widest.

    Args:
        count: Number of places.
        budget: Most places to visit.
        measure: The quantity at a place, which may be NaN.

    Returns:
        The quantity by place, in increasing order.
    """
    budget = min(budget, count)
    even = min(max(math.ceil(budget / 2), 2), budget)
    spread = [round(k * (count - 1) / max(even - 1, 1)) for k in range(even)]
    known = {place: measure(place) for place in spread}
    while len(known) < budget:
        place = _between(known)
        known[place] = measure(place)
    return dict(sorted(known.items()))


def _between(known: Mapping[int, float]) -> int:
    """The middle of the open interval over which the known values differ most."""
    places = sorted(known)

    def change(interval: tuple[int, int]) -> tuple[float, int]:
        low, high = interval
        difference = abs(known[high] - known[low])
        return difference if math.isfinite(difference) else 0.0, high - low

    first, last = max(((a, b) for a, b in pairwise(places) if b - a > 1), key=change)
    return (first + last) // 2
