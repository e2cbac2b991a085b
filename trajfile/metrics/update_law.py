"""Whether recorded updates lead from each snapshot to the next: θ_{k+1} = θ_k - η_k U_k.

An update of the wrong sign, or a displacement in its place, would be judged with confidence and
wrongly. Where snapshots lie one step apart the law itself can be held against the recording.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Inner, Row
from trajfile.linalg import cosine
from trajfile.metrics.recorded_updates import UpdateSource
from trajfile.metrics.robust import finite, median
from trajfile.report import Finding, number
from trajfile.schema import PARAMS, UPDATES

Float = NDArray[np.float64]

#: Spacing of the numbers next to 1. A step that is lost in it says nothing of its update.
_SPACING = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
#: Cosine from which on two vectors differ in length alone.
_PARALLEL = 0.995
#: Below this a residual is the rounding of the inner products that it cancels from, and 0.
_ROUNDING = 1e-6
#: Residual from which on its cause is worth a note.
_NOTED = 1e-3


@dataclass(frozen=True)
class UpdateLaw:
    """How well the law holds.

    Attributes:
        residual: Median of ‖θ_{k+1} - θ_k + η_k U_k‖/‖θ_{k+1} - θ_k‖; 0 below 1e-6.
        rows: Single steps behind it.
        cosine: Median cosine of θ_k - θ_{k+1} and U_k.
        length: Median of ‖θ_{k+1} - θ_k‖/‖η_k U_k‖.
        looks_like: What fits in the law's place; "other" if nothing known does.
        threshold: Residual above which the law does not hold.
        better: Whether that fits ten times as well as the law.
    """

    residual: float
    rows: int
    cosine: float
    length: float
    looks_like: str
    threshold: float
    better: bool

    @property
    def holds(self) -> bool:
        """Whether the recorded updates are those of the recorded snapshots."""
        return self.residual <= self.threshold

    @property
    def withholds(self) -> bool:
        """Whether no word may rest on the updates; a projection explains a difference."""
        return not self.holds and self.looks_like != "projection"

    @property
    def findings(self) -> list[Finding]:
        """A warning that says what the updates look like, if they are not the run's."""
        if self.holds:
            return []
        return [
            Finding(
                "alignment.updates_disagree",
                "warn" if self.withholds else "info",
                f"The recorded updates do not lead from snapshot to snapshot: θ_{{k+1}} - θ_k + "
                f"η_k U_k is {self.residual:.2g} times θ_{{k+1}} - θ_k (median of {self.rows} "
                f"steps). {self.words}",
                {
                    "looks_like": self.looks_like,
                    "residual": number(self.residual),
                    "cosine": number(self.cosine),
                    "length": number(self.length),
                    "rows": self.rows,
                },
            )
        ]

    @property
    def words(self) -> str:
        """What the updates look like, and what to do."""
        return {
            "opposite sign": "They point the opposite way: record U_k of θ_{k+1} = θ_k - η_k U_k, "
            "its negative.",
            "displacement": "They look like displacements θ_{k+1} - θ_k: record "
            "(θ_k - θ_{k+1})/η_k, or no updates at all.",
            "scaled update": "They look like η_k U_k, the learning rate included: record U_k "
            "without it.",
            "decay missing": "They look like updates without the weight decay: record them with "
            "it.",
            "other length": f"They point the right way, but each step is {self.length:.3g} times "
            "as long: the learning rate is not the one in force, or U_k is scaled.",
            "projection": "The run says that it is projected after each step, which accounts for "
            "a difference.",
            "other": "Nothing simple fits in their place: with momentum or Adam U_k is what the "
            "optimizer makes of the gradient, and parameter groups may differ in η.",
        }[self.looks_like]


def law_needs(header: Header, source: UpdateSource) -> frozenset[Inner]:
    """What `update_law` must know.

    Args:
        header: Of a run with params.
        source: Of its updates.

    Returns:
        Inner products of displacements, updates and snapshots; none without recorded updates.
    """
    if not source.recorded:
        return frozenset()
    step, theta = _rows(source)
    pairs = [(step, step), (step, source.row), (theta, theta)]
    if header.weight_decay > 0:
        pairs += [(step, theta), (theta, source.row)]
    return frozenset(Inner(left, right, per_tensor=True) for left, right in pairs)


def update_law(
    measured: Measurements, source: UpdateSource, threshold: float, fewest: int
) -> UpdateLaw | None:
    """Hold the law against the recording.

    Args:
        measured: With `law_needs`.
        source: Of the updates.
        threshold: Median residual above which the law does not hold.
        fewest: Single steps below which nothing is said.

    Returns:
        How well it holds; None where updates or learning rates are not recorded, snapshots lie
        too far apart, or the steps are lost in the rounding of the parameters.
    """
    header = measured.header
    if not source.recorded:
        return None
    moved = header.tensors[UPDATES]
    if set(moved) != set(header.tensors[PARAMS]) and not measured.per_tensor_kept:
        return None
    among = None if set(moved) == set(header.tensors[PARAMS]) else list(moved)
    step, theta = _rows(source)
    update, rate = source.row, header.learning_rate_at(source.steps)
    dd, du = measured.inner(step, step, 0, among), measured.inner(step, update, 0, among)
    uu, tt = measured.inner(update, update, 0, among), measured.inner(theta, theta, 0, among)
    spacing = max(_SPACING.get(t.dtype, 1.0) for t in header.tensors[PARAMS].values())
    with np.errstate(invalid="ignore"):
        told = source.adjacent & (rate > 0) & (dd > 0) & (uu > 0)
        told &= dd * threshold**2 > tt * spacing**2

    def residual(times: Float, more: Float | float = 0.0) -> float:
        """Median of ‖D + times·U + ...‖/‖D‖, `more` being what ... adds to the square."""
        with np.errstate(all="ignore"):
            square = dd + 2 * times * du + times**2 * uu + more
            share = median(np.where(told, np.sqrt(np.maximum(square, 0.0) / dd), np.nan))
        return 0.0 if share < _ROUNDING else share

    rows = len(finite(np.where(told, dd + du + uu, np.nan)))
    if rows < fewest:
        return None
    one = np.ones(len(rate))
    fits = {
        "opposite sign": residual(-rate),
        "displacement": residual(-one),
        "scaled update": residual(one),
    }
    if header.weight_decay > 0:
        decay = rate * header.weight_decay
        td = measured.inner(step, theta, 0, among)
        tu = measured.inner(theta, update, 0, among)
        fits["decay missing"] = residual(rate, decay**2 * tt + 2 * decay * (td + rate * tu))
    along = median(np.where(told, -cosine(dd, uu, du), np.nan))
    with np.errstate(all="ignore"):
        length = median(np.where(told, np.sqrt(dd / uu) / rate, np.nan))
    best = min(fits, key=lambda name: fits[name])
    missed = residual(rate)
    better = 10 * fits[best] < missed and missed > _NOTED
    if not fits[best] <= threshold:
        projected = header.optimizer.get("projected") or header.metadata.get("projected")
        best = (
            "opposite sign"
            if along <= -_PARALLEL
            else "other length"
            if along >= _PARALLEL
            else "projection"
            if projected
            else "other"
        )
    return UpdateLaw(missed, rows, along, length, best, threshold, better)


def law_notes(law: UpdateLaw | None) -> list[str]:
    """What a small difference is due to, if it is known.

    Args:
        law: How well the law holds, if that could be told.

    Returns:
        One sentence or none.
    """
    if law is None or not law.holds:
        return []
    if law.looks_like == "decay missing" and law.better:
        return [
            "The recorded updates look like those without the weight decay, "
            f"{law.residual:.2g} of a step."
        ]
    return []


def _rows(source: UpdateSource) -> tuple[Row, Row]:
    """θ_{k+1} - θ_k and θ_k on the updates' timeline."""
    timeline = source.row.timeline
    return Row(PARAMS, timeline, "difference"), Row(PARAMS, timeline)
