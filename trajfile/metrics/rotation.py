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
from trajfile.metrics.intervals import stated_medians
from trajfile.metrics.robust import median
from trajfile.metrics.rowwise import rows
from trajfile.metrics.snapshots import strides
from trajfile.report import number

Float = NDArray[np.float64]


def equilibrium_angle(header: Header, learning_rate: Float) -> Float | None:
    """The angle of one step at equilibrium, in radians.

    A gradient enters the step of its time and each later one with weights w_j (times η), and at
    equilibrium turns θ by √(2ηλ Σw_j²/c), c = Σw_j, or √(2ηλ Σw_j²)/c if the decay is decoupled.
    Heavy ball has w_j = (1-τ)β^j, τ being the dampening, so √(2ηλ(1-τ)/(1+β)); decoupled, and
    AdamW with β = β_1, √(2ηλ(1-β)/(1+β)), form after "rotational equilibrium" (arXiv 2305.17212),
    which is √(2ηλ) at β = 0. Nesterov has w_0 = 1+β and w_j = β^(j+1), so that each is times
    √(1+2β-2β³). Plain SGD, exactly: cos = 1 - ηλ.

    Args:
        header: Tells the optimizer, its momentum and its weight decay λ.
        learning_rate: η at each step, float64, shape (n,).

    Returns:
        float64, shape (n,), NaN where η is unknown or ηλ is not in (0, 2); None without weight
        decay or for an optimizer whose balance is not known.
    """
    name = str(header.optimizer.get("name", "")).upper()
    decay, momentum = header.weight_decay, header.momentum
    sgd = name in {"SGD", "GD"}
    decoupled = name == "ADAMW" or bool(header.optimizer.get("decoupled_weight_decay"))
    if decay <= 0 or not (sgd or (name in {"ADAM", "ADAMW"} and decoupled)):
        return None
    product = np.where(learning_rate * decay > 0, learning_rate * decay, np.nan)
    if sgd and momentum == 0:
        return np.asarray(2 * np.arcsin(np.sqrt(np.where(product < 2, product, np.nan) / 2)))
    squared = 2 * product / (1 + momentum)
    if decoupled:
        squared = squared * (1 - momentum)
    if sgd and header.optimizer.get("nesterov"):
        squared = squared * (1 + 2 * momentum - 2 * momentum**3)
    elif sgd and not decoupled:
        squared = squared * (1 - float(header.optimizer.get("dampening") or 0.0))
    return np.asarray(np.sqrt(squared))


def equilibrium_figures(
    header: Header, steps: NDArray[np.int64], angles: Float, *, part: float, fewest: int
) -> dict[str, list[Any]]:
    """How vectors turn late in a run beside how they would at equilibrium.

    Args:
        header: Tells the learning rate and the optimizer.
        steps: Steps of the snapshots, int64, shape (snapshots,).
        angles: Of n vectors the angle from each snapshot to the next in radians, float64, shape
            (n, snapshots).
        part: Last part of the run that counts.
        fewest: Single steps below which there is no ratio.

    Returns:
        `equilibrium_angle`, the median prediction; `equilibrium_ratio`, the median of observed
        over predicted over single steps, with its interval and `equilibrium_windows`; under each
        name a list of n.
    """
    n = len(angles)
    undefined = ("equilibrium_angle", "equilibrium_ratio", "equilibrium_ratio_interval")
    nothing: dict[str, list[Any]] = {name: [None] * n for name in undefined}
    nothing["equilibrium_windows"] = [0.0] * n
    expected = equilibrium_angle(header, header.learning_rate_at(steps))
    if expected is None or len(steps) < 2:
        return nothing
    late = steps >= steps[-1] - part * (steps[-1] - steps[0])
    single = rows(np.compress(late & (strides(steps) == 1), angles / expected, axis=1))
    return (
        nothing
        | {"equilibrium_angle": [number(median(expected[late]))] * n}
        | {"equilibrium_windows": single.windows.tolist()}
        | stated_medians("equilibrium_ratio", single, fewest)
    )
