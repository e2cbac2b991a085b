"""Whether the loss is higher at θ* than where the run began.

Any run points to where it ended, one that explodes too: that says nothing good of its updates.
"""

from __future__ import annotations

import math

import numpy as np

from trajfile.engine.header import Header
from trajfile.metrics.robust import median
from trajfile.report import Finding, number


def loss_rise(header: Header, reference: int, infimum: float) -> float:
    """How many times as far above its infimum the loss is near θ* as at first.

    Args:
        header: Of the run.
        reference: The step of θ*.
        infimum: inf ℓ.

    Returns:
        The median over the tenth of the recorded losses nearest to `reference`, over that of the
        first tenth, both above `infimum`; NaN where no loss is known or the first is not above
        it.
    """
    steps, loss = header.scalars.get("loss", (np.empty(0, np.int64), np.empty(0)))
    known = np.isfinite(loss)
    steps, gap = steps[known], loss[known] - infimum
    tenth = max(len(steps) // 10, 1)
    near = np.argsort(np.abs(steps - reference), kind="stable")[:tenth]
    first = median(gap[:tenth])
    return median(gap[near]) / first if first > 0 else math.nan


def rise_findings(rise: float, most: float, reference: int) -> list[Finding]:
    """A warning where the loss rose by more than `most` times."""
    if not rise > most:
        return []
    return [
        Finding(
            "alignment.loss_rose",
            "warn",
            f"About step {reference}, that of θ*, the loss is {rise:.3g} times what it was at "
            "first: updates that point there are not aligned with anything worth reaching.",
            {"loss_rise": number(rise), "reference_step": reference},
        )
    ]
