"""The rows that several metrics share, so that the engine measures them once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.needs import Row, Timeline

#: Every recorded snapshot.
SNAPSHOTS = Timeline(("params",))

#: θ_i at each recorded snapshot.
THETA = Row("params", SNAPSHOTS)

#: θ_{i+1} - θ_i between consecutive recorded snapshots.
STEP = Row("params", SNAPSHOTS, "difference")

#: Every step at which both a snapshot and a gradient were recorded.
PAIRED = Timeline(("params", "gradients"))

#: θ_i where a gradient was recorded with it.
PAIRED_THETA = Row("params", PAIRED)

#: g_i where a snapshot was recorded with it.
PAIRED_GRADIENT = Row("gradients", PAIRED)


def strides(steps: NDArray[np.int64]) -> NDArray[np.float64]:
    """Optimizer steps from each recorded row to the next.

    Args:
        steps: The rows' steps, increasing, int64, shape (n,).

    Returns:
        float64, shape (n,): 1 between adjacent steps; NaN in the last row, which has no next.
    """
    return np.append(np.diff(steps).astype(np.float64), np.nan)[: len(steps)]
