"""What happens from one jump to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.metrics.decay_law import critical_ratio
from trajfile.metrics.intervals import mean_interval, stated, stated_median
from trajfile.metrics.jumps import Cycle, Jumps
from trajfile.report import number

#: Names of what `period_summary` can say.
PERIOD_SUMMARY = (
    "period_mean", "period_cv", "periods", "period_elr_min", "period_elr_max", "period_norm_min",
    "period_norm_max", "period_free_decay", "free_decay_ratio_median", "period_mean_interval",
    "free_decay_ratio_median_interval",
)  # fmt: skip


def period_summary(
    header: Header,
    steps: NDArray[np.int64],
    jumps: Jumps,
    cycles: Sequence[Cycle],
    square: NDArray[np.float64],
) -> dict[str, Any]:
    """Lengths of the periods, and the range of norm and ELR in each.

    Between jumps the norm decays freely and Φ = η/((1-ηλ)ρ²) grows by (1-ηλ)^-2 a step, so from
    Φ_0 to Φ_c it takes ln(Φ_c/Φ_0)/(-2 ln(1-ηλ)) steps: `period_free_decay`, from the longest
    norm to the shortest. `free_decay_ratio_median` is the median of taken over predicted.

    Args:
        header: Tells the learning rate and the optimizer.
        steps: Steps of the snapshots, int64, shape (n,).
        jumps: The jumps among them.
        cycles: One per period.
        square: ρ² at each snapshot, float64, shape (n,).

    Returns:
        Some or all of `PERIOD_SUMMARY`; nothing if there are fewer than two jumps.
    """
    if not cycles:
        return {}
    lengths = np.diff(steps[jumps.start]).astype(np.float64)
    longest = np.array([cycle.longest for cycle in cycles])
    shortest = np.array([cycle.shortest for cycle in cycles])
    rate = header.learning_rate_at(steps)
    with np.errstate(divide="ignore", invalid="ignore"):
        elr = rate / square
    found: dict[str, Any] = {
        "periods": [int(length) for length in lengths],
        **stated("period_mean", float(lengths.mean()), mean_interval(lengths)),
        # One length has no spread.
        "period_cv": float(lengths.std() / lengths.mean()) if len(lengths) > 1 else None,
        "period_norm_min": [number(math.sqrt(value)) for value in square[shortest]],
        "period_norm_max": [number(math.sqrt(value)) for value in square[longest]],
        "period_elr_min": [number(value) for value in elr[longest]],
        "period_elr_max": [number(value) for value in elr[shortest]],
    }
    if header.weight_decay > 0 and header.is_plain_sgd:
        ratio = critical_ratio(rate, header.weight_decay, square)
        with np.errstate(divide="ignore", invalid="ignore"):
            grown = np.log(ratio[shortest] / ratio[longest])
            free = grown / (-2 * np.log1p(-rate[longest] * header.weight_decay))
            taken = (steps[shortest] - steps[longest]) / free
        found["period_free_decay"] = [number(value) for value in free]
        found |= stated_median("free_decay_ratio_median", taken)
    return found
