"""The two sides of the regularity principle, row by row, and what they promise together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.measurements import Measurements
from trajfile.linalg import cosine
from trajfile.metrics.intervals import (
    Intervals,
    fraction_intervals,
    mean_intervals,
    ratio_interval,
    ratio_intervals,
    stated,
    stated_each,
)
from trajfile.metrics.recorded_updates import UpdateSource
from trajfile.metrics.rowwise import Rows, of_tensors, results, rows
from trajfile.report import Finding, TensorResult, number

Float = NDArray[np.float64]

#: Rounding that float32 updates may leave between the two sides of the bound.
_SLACK = 1e-4


@dataclass(frozen=True)
class Regularity:
    """Every ingredient of γ_k = a_k/(b_k/2 + gap_k), float64, shape (update rows,).

    Attributes:
        steps: Steps of the rows, int64.
        inner: a = ⟨θ_k - θ*, U_k⟩; NaN without a learning rate to tell U_k by.
        square: b = ‖U_k‖²; likewise.
        gap: ℓ_k - inf ℓ; NaN where the loss was not recorded.
        distance: ‖θ_k - θ*‖².
        cosine: Of θ_k - θ* and U_k; NaN where either is zero.
        gamma: γ_k; NaN where an ingredient is, where a vector is zero, or for want of a positive
            denominator.
    """

    steps: NDArray[np.int64]
    inner: Float
    square: Float
    gap: Float
    distance: Float
    cosine: Float
    gamma: Float

    @property
    def known(self) -> NDArray[np.bool_]:
        """Rows whose γ_k is defined."""
        return np.isfinite(self.gamma)

    @property
    def denominator(self) -> Float:
        """b/2 + gap."""
        return self.square / 2 + self.gap


def regularity(measured: Measurements, source: UpdateSource, infimum: float) -> Regularity:
    """The ingredients of γ over the rows that have an update.

    Args:
        measured: With the inner products of the source's rows declared.
        source: Where updates and distances come from.
        infimum: inf ℓ.

    Returns:
        The ingredients.
    """
    count = source.count
    steps, scale = source.steps[:count], source.scale[:count]
    distance = measured.inner(source.distance, source.distance)[:count]
    inner = measured.inner(source.distance, source.row)[:count]
    square = measured.inner(source.row, source.row)[:count]
    # The direction of a displacement is known even where its scale, for want of η, is not.
    cos = source.sign * cosine(distance, square, inner)
    a, b = inner * scale, square * scale**2
    loss = measured.header.scalar_at("loss", steps)
    gap = np.where(np.isfinite(loss), loss - infimum, np.nan)  # a/inf would be 0
    denominator = b / 2 + gap
    with np.errstate(divide="ignore", invalid="ignore"):
        gamma = np.where((distance > 0) & (b > 0) & (denominator > 0), a / denominator, np.nan)
    return Regularity(steps, a, b, gap, distance, cos, gamma)


@dataclass(frozen=True)
class Bound:
    """What γ promises: a bound on the sum of the loss gaps.

    From θ_{k+1} = θ_k - ηU_k,  ‖θ_{k+1} - θ*‖² = ‖θ_k - θ*‖² - 2ηa_k + η²b_k, and with
    a_k ≥ γ(b_k/2 + gap_k) and η ≤ γ the right side is at most ‖θ_k - θ*‖² - 2ηγ gap_k. Summed
    over k: Σ gap_k ≤ ‖θ_0 - θ*‖²/(2ηγ). It follows for any γ no larger than each γ_k, so a run
    that breaks it was not recorded as it happened.

    Attributes:
        left: Σ gap_k.
        right: ‖θ_0 - θ*‖²/(2ηγ).
    """

    left: float
    right: float

    @property
    def holds(self) -> bool:
        """Whether left ≤ right, to rounding."""
        return self.left <= self.right * (1 + _SLACK)

    @property
    def findings(self) -> list[Finding]:
        """A warning if the bound does not hold."""
        if self.holds:
            return []
        return [
            Finding(
                "alignment.bound",
                "warn",
                f"Σ gap = {self.left:.3g} exceeds its bound {self.right:.3g}, which "
                "θ_{k+1} = θ_k - ηU_k would imply: the recorded updates or learning rate are not "
                "those of the recorded snapshots.",
                {"left": self.left, "right": self.right},
            )
        ]


def regularity_bound(
    found: Regularity,
    kept: NDArray[np.bool_],
    rates: Float,
    adjacent: NDArray[np.bool_],
) -> Bound | None:
    """The bound over the first rows of a run, if it applies to them.

    Args:
        found: The ingredients of γ.
        kept: The rows that γ is the minimum over, shape (update rows,).
        rates: η_k of all rows.
        adjacent: Whether each row's update is of one step and leads to the next row.

    Returns:
        Both sides; None where the rows kept are not the first ones without a gap, or η is
        unknown, not constant or above γ.
    """
    count = int(kept.sum())
    first = slice(0, count)
    if not count or not kept[first].all() or not adjacent[first].all():
        return None
    rate, gamma = float(rates[0]), float(found.gamma[first].min())
    if not (rates[first] == rate).all() or not 0 < rate <= gamma:
        return None
    return Bound(float(found.gap[first].sum()), float(found.distance[0] / (2 * rate * gamma)))


def cosine_figures(cos: Rows) -> dict[str, list[Any]]:
    """How updates point, over the steps in which both vectors exist.

    Args:
        cos: Cosines of θ_k - θ* and U_k of n tensors, or of the whole as one.

    Returns:
        `cosine_mean` and `violated_fraction`, the share with cos ≤ 0, each with its interval, and
        under each name a list of n.
    """
    within = mean_intervals(cos)
    low, high = np.maximum(within.low, -1.0), np.minimum(within.high, 1.0)
    below = (cos.values <= 0) & cos.inside
    with np.errstate(invalid="ignore"):
        share = below.sum(axis=1) / cos.counts
    return stated_each("cosine_mean", cos.means, Intervals(low, high, within.windows)) | (
        stated_each("violated_fraction", share, fraction_intervals(share, within.windows))
    )


def gamma_figures(found: Regularity, kept: NDArray[np.bool_]) -> dict[str, Any]:
    """γ in its forms, and how the updates point.

    Args:
        found: The ingredients of γ.
        kept: The rows that `gamma_trajectory` is the least of, shape (update rows,).

    Returns:
        `gamma_trajectory` with the step it is taken at (the least of all rows, so no mean with an
        interval), `gamma_aggregate` with its interval, `gamma_upper_bound` where no loss gap is
        known, and `cosine_figures`.
    """
    known = found.known
    cos = rows(found.cosine[None, :])
    a, below = found.inner[known], found.denominator[known]
    least = int(np.argmin(np.where(kept, found.gamma, np.inf))) if kept.any() else None
    figures: dict[str, Any] = {
        "gamma_trajectory": None if least is None else number(found.gamma[least]),
        "gamma_trajectory_step": None if least is None else int(found.steps[least]),
        **stated("gamma_aggregate", ratio(a.sum(), below.sum()), ratio_interval(a, below)),
        **{name: told[0] for name, told in cosine_figures(cos).items()},
        "effective_windows": number(cos.windows[0]),
    }
    sized = np.isfinite(found.inner) & np.isfinite(found.cosine)
    if not known.any() and sized.any():
        a, half = found.inner[sized], found.square[sized] / 2
        figures |= stated("gamma_upper_bound", ratio(a.sum(), half.sum()), ratio_interval(a, half))
    return figures


def tensor_figures(
    measured: Measurements, source: UpdateSource, found: Regularity
) -> dict[str, TensorResult]:
    """Each tensor's `cosine_figures`, and its share of `gamma_aggregate` (they add up to it)."""
    count, known = source.count, found.known
    names, inner = of_tensors(measured, source.distance, source.row)
    distance = of_tensors(measured, source.distance, source.distance, names)[1]
    square = of_tensors(measured, source.row, source.row, names)[1]
    cos = source.sign * cosine(distance[:, :count], square[:, :count], inner[:, :count])
    parts = np.compress(known, inner[:, :count] * source.scale[:count], axis=1)
    below = found.denominator[known]
    share = parts.sum(axis=1) / below.sum() if below.sum() > 0 else np.full(len(names), np.nan)
    shares = stated_each("gamma_share", share, ratio_intervals(parts, below))
    return results(names, cosine_figures(rows(cos)) | shares)


def ratio(above: float, below: float) -> float:
    """above/below, NaN unless below is positive."""
    return float(above / below) if below > 0 else math.nan
