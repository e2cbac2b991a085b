"""How much curvature each optimizer can stand on a quadratic before it oscillates outwards.

Linear stability of the update on a loss with curvature a, learning rate eta and momentum beta:

* gradient descent: a < 2/eta;
* heavy ball, buffer <- beta buffer + (1 - dampening) g: a < (2 + 2 beta)/((1 - dampening) eta);
* Nesterov: a < (2 + 2 beta)/(eta (1 + 2 beta));
* Adam: the preconditioned Hessian has to stay below (2 + 2 beta_1)/((1 - beta_1) eta), which is
  38/eta at beta_1 = 0.9 (arXiv 2207.14484).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """The stability limit in force along a run.

    Attributes:
        values: The limit at each step, float64; NaN where it is unknown.
        rule: The formula in plain text; None if no formula applies.
        preconditioned: Whether it limits the preconditioned Hessian, not the Hessian.
        note: What a reader has to know of it, or None.
    """

    values: Float
    rule: str | None
    preconditioned: bool
    note: str | None


def stability_threshold(header: Header, steps: NDArray[np.int64]) -> Threshold:
    """The limit for the run's optimizer.

    Args:
        header: Names the optimizer, its momentum and its learning rates.
        steps: Where it is wanted, int64, shape (n,).

    Returns:
        The limit at each step; all NaN, with a note that says what to record, if it is unknown.
    """
    factor, rule, preconditioned, note = _law(header)
    rates = header.learning_rate_at(steps)
    values = np.divide(factor, rates, out=np.full(len(steps), np.nan), where=rates > 0)
    if rule is not None and len(steps) and not np.isfinite(values).any():
        note = "No stability threshold: record the scalar learning_rate."
    return Threshold(values, rule, preconditioned, note)


def _law(header: Header) -> tuple[float, str | None, bool, str | None]:
    """The limit times the learning rate, its formula, what it limits, and a note."""
    optimizer = header.optimizer
    name = str(optimizer.get("name", "")).upper()
    beta = header.momentum
    if name in {"SGD", "GD"}:
        if optimizer.get("nesterov"):
            return (2 + 2 * beta) / (1 + 2 * beta), "(2 + 2β)/(η(1 + 2β))", False, None
        dampening = float(optimizer.get("dampening") or 0.0)
        if beta and dampening < 1:
            rule = "(2 + 2β)/((1 − τ)η)" if dampening else "(2 + 2β)/η"
            return (2 + 2 * beta) / (1 - dampening), rule, False, None
        stated = "momentum" in optimizer or name == "GD"
        note = None if stated else "The run does not state a momentum; it is taken to be 0."
        return 2.0, "2/η", False, note
    if name in {"ADAM", "ADAMW"}:
        if not optimizer.get("betas"):
            return np.nan, None, True, "No stability threshold: record Adam's betas."
        note = (
            "Adam's threshold limits the preconditioned Hessian; curvature of the plain Hessian "
            "cannot be held against it."
        )
        return (2 + 2 * beta) / (1 - beta), "(2 + 2β₁)/((1 − β₁)η)", True, note
    if not name:
        return np.nan, None, False, "No stability threshold: record the optimizer's name."
    return np.nan, None, False, f"No stability threshold is known for {optimizer['name']}."
