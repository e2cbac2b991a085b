"""Which layer pairs to measure as matrices, at which steps, and against which law.

The matrix imbalance of a pair of width h costs h^2 (a + b) multiplications a step, far more than
reading the weights. So the steps are few, and the costliest pairs give way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import LayerBalance
from trajfile.engine.needs import LayerLaw, LayerPair, Timeline
from trajfile.metrics import robust
from trajfile.metrics.layer_chain import LayerChain
from trajfile.metrics.snapshots import PAIRED
from trajfile.schema import GRADIENTS, PARAMS

Float = NDArray[np.float64]

#: Fewer steps than this tell nothing of a course.
_FEWEST_STEPS = 4


@dataclass(frozen=True)
class PairPlan:
    """The matrix needs of the imbalance.

    Attributes:
        needs: One per measured pair, all on one timeline.
        law_reason: Why the law is not checked, or None if it is.
    """

    needs: tuple[LayerPair, ...]
    law_reason: str | None


def plan_pairs(
    header: Header, chain: LayerChain, *, steps: int, work: float, max_width: int
) -> PairPlan:
    """Choose pairs, steps and law.

    Args:
        header: What the run holds.
        chain: Its layers.
        steps: Most steps to measure at.
        work: Most multiplications over all pairs and steps.
        max_width: Widest pair to consider.

    Returns:
        The needs, cheapest pairs first; none if not even the cheapest fits.
    """
    reason = _no_law(header, chain)
    factor = 2 if reason is None else 1
    chosen, cost = [], 0
    for joint in sorted(chain.joints, key=lambda joint: joint.cost):
        more = cost + factor * joint.cost
        if joint.width <= max_width and more * _FEWEST_STEPS <= work:
            chosen.append(joint)
            cost = more
    limit = int(min(steps, work // cost)) if cost else steps
    if reason is None:
        timeline = Timeline(PAIRED.along, limit, pairs=True)
        law = _law(header, timeline)
    else:
        timeline, law = Timeline((PARAMS,), limit), None
    needs = tuple(LayerPair(joint.first, joint.second, timeline, law) for joint in chosen)
    return PairPlan(needs, reason)


def _no_law(header: Header, chain: LayerChain) -> str | None:
    """Why D_(k+1) = (1 - eta lambda)^2 D_k + eta^2 (G_2'G_2 - G_1G_1') cannot be checked."""
    if not header.is_plain_sgd:
        return "The law of the imbalance is for plain SGD with coupled decay; it was not checked."
    if not header.has(GRADIENTS):
        return "The law of the imbalance needs gradients; none were recorded."
    stage = header.gradient.get("stage") or "raw"
    if stage != "raw":
        return f"The law of the imbalance needs raw gradients; these are {stage}."
    applied = header.gradient.get("applied") or "raw"
    if applied != "raw":
        return (
            f"The law of the imbalance ties updates to gradients, and the {applied} ones that were "
            "applied are not those recorded; it was not checked."
        )
    if any(name not in header.tensors[GRADIENTS] for name in chain.names):
        return "The law of the imbalance needs the gradients of all layers."
    common = header.timeline_steps(PAIRED)
    if not np.isfinite(header.learning_rate_at(common)).any():
        return "The law of the imbalance needs the learning rate; record the scalar learning_rate."
    if not (np.diff(common) == 1).any():
        return (
            "The law of the imbalance leads from one step to the next; no two adjacent steps hold "
            "both params and gradients."
        )
    return None


def _law(header: Header, timeline: Timeline) -> LayerLaw:
    steps = header.timeline_steps(timeline)
    rates = header.learning_rate_at(steps)
    adjacent = np.append(np.diff(steps) == 1, False)[: len(steps)]
    keep = (1 - rates * header.weight_decay) ** 2
    gain = rates**2
    return LayerLaw(_where(adjacent, keep), _where(adjacent, gain))


def _where(known: NDArray[np.bool_], values: Float) -> tuple[float | None, ...]:
    """The values as floats, and None elsewhere: unlike NaN it equals itself, as a need must."""
    return tuple(
        value if there and math.isfinite(value) else None
        for there, value in zip(known.tolist(), values.tolist(), strict=True)
    )


def law_residuals(
    balances: Mapping[LayerPair, LayerBalance],
    steps: NDArray[np.int64],
    squared: Mapping[str, Float],
    spacing: float,
) -> Float:
    """How far the recorded imbalance is from its law.

    Args:
        balances: The measured pairs.
        steps: Steps of the snapshots, int64, shape (n,).
        squared: ||W||_F^2 of each layer at those steps, float64, shape (n,).
        spacing: Relative spacing of the floats the params were recorded in.

    Returns:
        ||D_(k+1) - predicted||_F / ||D_(k+1) - D_k||_F for all pairs and steps whose change stands
        clear of that spacing, in order of time within a pair; float64, shape (changes,).
    """
    ratios = [np.empty(0)]
    for need, balance in balances.items():
        size = squared[need.first] + squared[need.second]
        # Rounding each weight moves D by about its spacing times ||W_1||^2 + ||W_2||^2.
        floor = 10 * spacing * size[np.searchsorted(steps, balance.steps)]
        with np.errstate(invalid="ignore"):
            clear = balance.law_change > floor
        ratios.append(balance.law_residual[clear] / balance.law_change[clear])
    return robust.finite(np.concatenate(ratios))
