"""How fast scale-invariant tensors turn once gradients and weight decay balance.

With independent gradients orthogonal to θ, each adds η²G²c² to ρ² over time (c the sum of its
weights in all later updates) and decay takes 2ηλcρ² (2ηλρ² if decoupled) a step; in balance a
step turns θ by an angle that holds neither G nor ρ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.metrics.intervals import effective_windows, median_interval, stated
from trajfile.metrics.robust import finite, median
from trajfile.metrics.snapshots import strides
from trajfile.report import number

Float = NDArray[np.float64]


def equilibrium_angle(header: Header, learning_rate: Float) -> Float | None:
    """The angle of one step at equilibrium, in radians.

    Plain SGD, exactly: cos = 1 - ηλ. SGD with momentum β and coupled decay: √(2ηλ/(1+β));
    decoupled, and AdamW with β = β_1: √(2ηλ(1-β)/(1+β)), form after "rotational equilibrium"
    (arXiv 2305.17212), which is √(2ηλ) at β = 0.

    Args:
        header: Tells the optimizer, its momentum and its weight decay λ.
        learning_rate: η at each step, float64, shape (n,).

    Returns:
        float64, shape (n,), NaN where η is unknown or ηλ is not in (0, 2); None without weight
        decay or for an optimizer whose balance is not known.
    """
    name = str(header.optimizer.get("name", "")).upper()
    decay, momentum = header.weight_decay, header.momentum
    if decay <= 0 or header.optimizer.get("nesterov"):
        return None
    decoupled = name == "ADAMW" or bool(header.optimizer.get("decoupled_weight_decay"))
    product = np.where(learning_rate * decay > 0, learning_rate * decay, np.nan)
    if name in {"SGD", "GD"} and momentum == 0:
        return np.asarray(2 * np.arcsin(np.sqrt(np.where(product < 2, product, np.nan) / 2)))
    if name in {"SGD", "GD"} and not decoupled:
        return np.asarray(np.sqrt(2 * product / (1 + momentum)))
    if name in {"SGD", "GD"} or (name in {"ADAM", "ADAMW"} and decoupled):
        return np.asarray(np.sqrt(2 * product * (1 - momentum) / (1 + momentum)))
    return None


def equilibrium_figures(
    header: Header, steps: NDArray[np.int64], angle: Float, *, part: float, fewest: int
) -> dict[str, Any]:
    """How the tensors turn late in a run beside how they would at equilibrium.

    Args:
        header: Tells the learning rate and the optimizer.
        steps: Steps of the snapshots, int64, shape (n,).
        angle: Angle from each snapshot to the next in radians, float64, shape (n,).
        part: Last part of the run that counts.
        fewest: Single steps below which there is no ratio.

    Returns:
        `equilibrium_angle`, the median prediction; `equilibrium_ratio`, the median of observed
        over predicted over single steps, with its interval and `equilibrium_windows`.
    """
    nothing = dict.fromkeys(
        ("equilibrium_angle", "equilibrium_ratio", "equilibrium_ratio_interval")
    ) | {"equilibrium_windows": 0.0}
    expected = equilibrium_angle(header, header.learning_rate_at(steps))
    if expected is None or len(steps) < 2:
        return nothing
    late = steps >= steps[-1] - part * (steps[-1] - steps[0])
    single = finite((angle / expected)[late & (strides(steps) == 1)])
    figures = nothing | {
        "equilibrium_angle": number(median(expected[late])),
        "equilibrium_windows": effective_windows(single),
    }
    if len(single) >= fewest:
        figures |= stated("equilibrium_ratio", median(single), median_interval(single))
    return figures
