"""How plain SGD with weight decay must move scale-invariant tensors, exactly.

With coupled decay, a = 1 - ηλ and g at right angles to θ:  ρ'² = a²ρ² + η²‖g‖². In terms of
Φ = η/(aρ²) and g̃ = ρg that is  1 - cos = 1 - 1/√(1 + Φ²g̃²)  and
Φ_{t+1} = B_tΦ_t/(1 + Φ_t²g̃_t²)  with  B_t = η_{t+1}/(η_t a_t a_{t+1}).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.metrics.intervals import stated_medians
from trajfile.metrics.rowwise import Rows, of_tensors, rows
from trajfile.metrics.snapshots import PAIRED, PAIRED_GRADIENT, SNAPSHOTS, strides

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Norms that stay within this part of themselves are held there, as by projection to a sphere.
_HELD = 1e-6


def critical_ratio(rate: Float, decay: float, square: Float) -> Float:
    """Φ = η/((1-ηλ)ρ²), which grows as the norm decays and which a jump throws back.

    Args:
        rate: η, float64, shape (n,).
        decay: λ.
        square: ρ², shape (n,).

    Returns:
        Φ, float64, shape (n,).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(rate / ((1 - rate * decay) * square))


def law_residuals(
    rate: Float, decay: float, square: Float, growth: Float, slope: Float
) -> tuple[Float, Float]:
    """How far each step is from the laws of the norm and of the angle.

    Args:
        rate: η_i of each row, float64, shape (rows,).
        decay: λ.
        square: ρ_i² of n vectors, shape (n, rows).
        growth: ln(ρ_{i+1}²/ρ_i²), likewise, NaN where the next row is not the next step.
        slope: ‖g_i‖², likewise, NaN where not recorded.

    Returns:
        Of the norm: |ln Φ_{i+1} - ln Φ_i - ln B_i + ln(1 + Φ²g̃²)| over the sum of the
        magnitudes of the law's terms, so that 1 means that the law explains nothing of the
        change. And what it says 1 - cos should be. Both float64, shape (n, rows).
    """
    keep = 1 - rate * decay
    kick = critical_ratio(rate, decay, square) ** 2 * square * slope
    with np.errstate(divide="ignore", invalid="ignore"):
        following = np.append(rate[1:], np.nan)
        schedule = np.log(following) - np.log(rate)
        shrink = np.log1p(-rate * decay)
        shrink_next = np.append(shrink[1:], np.nan)
        # ln Φ_{i+1} - ln Φ_i, taken from the growth of the norm so that nothing cancels.
        observed = schedule - (shrink_next - shrink) - growth
        expected = schedule - shrink - shrink_next - np.log1p(kick)
        scale = np.abs(shrink) + np.abs(shrink_next) + np.log1p(kick)
        residual = np.abs(observed - expected) / scale
        root = np.sqrt(1 + kick)
        turned = kick / (root * (1 + root))
    return np.where(keep > 0, residual, np.nan), np.asarray(turned)


def norms_are_held(square: Float) -> Mask:
    """Which of n norms never change, as when weights are projected to a sphere after each step.

    Args:
        square: ‖θ‖² of n vectors at each snapshot, float64, shape (n, snapshots).

    Returns:
        Shape (n,).
    """
    known = np.isfinite(square)
    high = np.max(square, axis=1, initial=-np.inf, where=known)
    low = np.min(square, axis=1, initial=np.inf, where=known)
    return np.asarray(~(high - low > _HELD * high))


#: Names of what `LawResiduals.summary` says.
LAW_SUMMARY = (
    "law_residual_median", "law_residual_median_interval", "angle_law_residual_median",
    "angle_law_residual_median_interval", "law_rows",
)  # fmt: skip


@dataclass(frozen=True)
class LawResiduals:
    """Residuals of both laws for each of n vectors over the rows where they apply.

    Attributes:
        norm: As in `law_residuals`; empty where the law does not apply.
        angle: |(1 - cos)/expected - 1|.
    """

    norm: Rows
    angle: Rows

    def summary(self, fewest: int) -> dict[str, list[Any]]:
        """Their medians with intervals, None below so many rows; under each name a list of n."""
        named = ("law_residual_median", self.norm), ("angle_law_residual_median", self.angle)
        figures: dict[str, list[Any]] = {}
        for name, values in named:
            figures |= stated_medians(name, values, fewest)
        return figures | {"law_rows": self.norm.counts.tolist()}


def decay_between(header: Header, steps: NDArray[np.int64]) -> Float:
    """By how much weight decay alone shortens ln‖θ‖² from each snapshot to the next.

    -2 Σ ln(1-ηλ) over the steps in between, at the learning rate of the first: for plain SGD, and
    for any optimizer that decays apart from its step.

    Args:
        header: Tells the optimizer, its learning rate and its weight decay.
        steps: Steps of the snapshots, int64, shape (n,).

    Returns:
        float64, shape (n-1,), positive; NaN where it is not known.
    """
    name = str(header.optimizer.get("name", "")).upper()
    apart = name == "ADAMW" or bool(header.optimizer.get("decoupled_weight_decay"))
    if not (header.is_plain_sgd or apart):
        return np.full(len(steps) - 1, np.nan)
    rate = header.learning_rate_at(steps)[:-1] * header.weight_decay
    return np.asarray(-2 * np.log1p(-np.where(rate < 1, rate, np.nan)) * np.diff(steps))


def law_applies(header: Header) -> bool:
    """Whether the laws can hold: of plain SGD, with the gradients that were applied recorded."""
    plain = header.is_plain_sgd or not header.optimizer.get("name")
    # Recorded raw while clipped ones were applied: the norm grew by others than these.
    other = header.gradient.get("applied") not in {None, header.gradient.get("stage")}
    foreign = header.gradient.get("stage") in {"scaled", "replayed"} or other
    return plain and header.has("gradients") and not foreign


def laws_of(
    header: Header, square: Float, growth: Float, distance: Float, recorded: Float | None
) -> LawResiduals:
    """Residuals of both laws over a run, from its adjacent snapshots with gradients.

    Args:
        header: Tells the learning rate and the weight decay.
        square: ρ² of n vectors at each snapshot, float64, shape (n, snapshots).
        growth: ln(ρ_{i+1}²/ρ_i²) from each snapshot to the next, shape (n, snapshots - 1).
        distance: 1 - cos likewise.
        recorded: ‖g‖² of each where a gradient was recorded with a snapshot, shape (n, rows), NaN
            where unknown; None where the laws do not apply.

    Returns:
        Those that are known; none of a vector whose norm is held constant.
    """
    if recorded is None:
        nothing = rows(np.empty((len(square), 0)))
        return LawResiduals(nothing, nothing)
    steps = header.timeline_steps(SNAPSHOTS)
    slope = np.full(square.shape, np.nan)
    slope[:, np.searchsorted(steps, header.timeline_steps(PAIRED))] = recorded
    slope[norms_are_held(square)] = np.nan
    adjacent = strides(steps)[:-1] == 1
    grown = np.full(square.shape, np.nan)
    grown[:, :-1] = np.where(adjacent, growth, np.nan)
    rate = header.learning_rate_at(steps)
    residual, turned = law_residuals(rate, header.weight_decay, square, grown, slope)
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.abs(distance / turned[:, :-1] - 1)
    return LawResiduals(rows(residual), rows(np.where(adjacent, angle, np.nan)))


def recorded_squares(measured: Measurements, names: list[str]) -> Float | None:
    """Each tensor's ‖g‖² where a gradient was recorded with a snapshot.

    Args:
        measured: With `invariance_needs` among what was declared.
        names: Of the tensors.

    Returns:
        float64, shape (tensors, rows), NaN of a tensor without; None where the laws do not apply.
    """
    header = measured.header
    if not law_applies(header):
        return None
    known, squares = of_tensors(measured, PAIRED_GRADIENT, PAIRED_GRADIENT, names)
    if known == names:
        return squares
    recorded = np.full((len(names), squares.shape[1]), np.nan)
    recorded[[names.index(name) for name in known]] = squares
    return recorded
