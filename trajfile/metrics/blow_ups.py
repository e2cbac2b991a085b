"""Spikes of the loss that a trimmed mean cuts away: a run that keeps blowing up never settled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Steps = NDArray[np.int64]

#: Times the median of its block above which a loss, or the block's mean, is far from it.
_FAR = 10.0
#: Blocks with a spike from which on they recur; fewer are odd samples.
_RECUR = 3


@dataclass(frozen=True)
class BlowUps:
    """Blocks of rows that single rows lift far above their median.

    Attributes:
        blocks: Their indices, int64, shape (n,).
        peaks: The largest loss in each, float64, shape (n,).
        steps: The step of it, int64, shape (n,).
    """

    blocks: Steps
    peaks: Float
    steps: Steps

    def clause(self, since: int) -> str:
        """What happened from a block on; empty where the spikes do not recur."""
        late = self.blocks >= since
        count = int(late.sum())
        if count < _RECUR:
            return ""
        worst = int(np.argmax(self.peaks[late]))
        return (
            f"the loss spikes again and again, in {count} blocks of rows, first at step "
            f"{self.steps[late][0]}, most at step {self.steps[late][worst]} "
            f"({self.peaks[late][worst]:.2g})"
        )


def find_blow_ups(
    steps: Steps, loss: Float, parts: Sequence[Steps], *, high: float, floor: float
) -> BlowUps:
    """The blocks whose largest loss or mean is far from their median.

    Args:
        steps: Steps of the rows, int64, shape (n,).
        loss: Finite and not negative, float64, shape (n,).
        parts: The rows of each block.
        high: A single loss must reach this,
        floor: and a mean must pass this, to count.

    Returns:
        Those found, in order of time.
    """
    found = []
    for index, part in enumerate(parts):
        rows = loss[part]
        far = _FAR * float(np.median(rows))
        top = int(part[np.argmax(rows)])
        if loss[top] >= max(far, high) or rows.mean() > max(far, floor):
            found.append((index, top))
    at = np.array(found, np.int64).reshape(-1, 2)
    return BlowUps(at[:, 0], loss[at[:, 1]], steps[at[:, 1]])
