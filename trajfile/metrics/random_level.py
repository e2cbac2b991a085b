"""The loss of a network that knows nothing yet, against which regimes are judged."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajfile.metrics.regime import RegimeRule

Float = NDArray[np.float64]
Steps = NDArray[np.int64]

#: A first loss later than this step, and than this part of the run, says nothing of its start.
_START_STEP = 10
_START_PART = 0.02


def random_level(steps: Steps, loss: Float, rule: RegimeRule) -> float | None:
    """Loss of a network that knows nothing yet.

    Args:
        steps: Every step at which the loss was recorded, int64, shape (n,).
        loss: The losses; what is not finite is left out.
        rule: Its `random_loss` comes first.

    Returns:
        The option, else the median of the first three losses if they cover the run's start;
        None if they do not.
    """
    if rule.random_loss is not None:
        return rule.random_loss
    first = np.flatnonzero(np.isfinite(loss))[:3]
    if not len(first) or steps[first[0]] > max(_START_STEP, _START_PART * steps[-1]):
        return None
    return float(np.median(loss[first]))
