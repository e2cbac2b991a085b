"""How fast scale-invariant tensors turn once gradients and weight decay balance.

With independent gradients orthogonal to θ, each adds η²G²c² to ρ² over time (c the sum of its
weights in all later updates) and decay takes 2ηλcρ² (2ηλρ² if decoupled) a step; in balance a
step turns θ by an angle that holds neither G nor ρ.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header

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
