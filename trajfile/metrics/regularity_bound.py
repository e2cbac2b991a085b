"""What the regularity principle promises: a bound on the sum of the loss gaps.

From θ_{k+1} = θ_k - ηU_k,  ‖θ_{k+1} - θ*‖² = ‖θ_k - θ*‖² - 2ηa_k + η²b_k, and with
a_k ≥ γ(b_k/2 + gap_k) and η ≤ γ the right side is at most ‖θ_k - θ*‖² - 2ηγ gap_k. Summed over k:
Σ gap_k ≤ ‖θ_0 - θ*‖²/(2ηγ). It follows for any γ no larger than each γ_k, so a run that breaks it
has been recorded wrongly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.report import Finding

Float = NDArray[np.float64]

#: Rounding that float32 updates may leave between the two sides.
_SLACK = 1e-4


@dataclass(frozen=True)
class Bound:
    """Both sides of the bound, over the rows from the first to the last of `gamma_trajectory`.

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
    gap: Float, distance: Float, rates: Float, adjacent: NDArray[np.bool_], gamma: float
) -> Bound | None:
    """The bound, if it applies.

    Args:
        gap: ℓ_k - inf ℓ of the rows that γ is the minimum over, float64, shape (m,).
        distance: ‖θ_k - θ*‖² of the same rows.
        rates: η_k of the same rows.
        adjacent: Whether each row's update is of one step and leads to the next row.
        gamma: γ.

    Returns:
        Both sides; None where η is unknown, not constant or above γ, or where steps are missing.
    """
    if not len(gap) or not adjacent.all() or not (rates == rates[0]).all():
        return None
    if not 0 < rates[0] <= gamma:
        return None
    return Bound(float(gap.sum()), float(distance[0] / (2 * rates[0] * gamma)))
