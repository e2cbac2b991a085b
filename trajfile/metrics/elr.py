"""Effective learning rate of scale-invariant tensors, and the regime it leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Inner, Need
from trajfile.linalg import turn
from trajfile.metrics.base import Metric, Skipped
from trajfile.metrics.intervals import effective_windows, stated_means, stated_median
from trajfile.metrics.non_finite import listed
from trajfile.metrics.random_level import random_level
from trajfile.metrics.ranges import Count, Part
from trajfile.metrics.regime import Regime, RegimeRule, classify
from trajfile.metrics.regime_words import regime_finding, regime_sentence
from trajfile.metrics.robust import first, last
from trajfile.metrics.rotation import equilibrium_figures
from trajfile.metrics.rowwise import firsts, lasts, of_tensors, results, rows
from trajfile.metrics.scale_invariance import (
    InvarianceRule,
    Invariant,
    declared_tensors,
    find_invariant,
    inner_over,
    invariance_findings,
    invariance_needs,
)
from trajfile.metrics.snapshots import PAIRED, PAIRED_GRADIENT, PAIRED_THETA, SNAPSHOTS, STEP, THETA
from trajfile.metrics.snapshots import strides as strides_of
from trajfile.report import MetricResult, Series, TensorResult, number, numbers, series

Float = NDArray[np.float64]

_SALIENCE = {"divergence": 0.95, "chaotic_equilibrium": 0.75, "convergence": 0.5}


_DECLARE = "declare groups['scale_invariant']"


@dataclass(frozen=True)
class Elr(RegimeRule, InvarianceRule, Metric):
    """ELR = η/ρ², effective gradient norm ρ‖g‖, angular update, and the regime.

    Series: `rho_squared` Σ‖θ_i‖² over the scale-invariant tensors; `elr` η/ρ²;
    `effective_gradient_norm` ρ‖g‖ (where gradients were recorded with a snapshot);
    `angular_update` in radians from each snapshot to the next.

    Attributes:
        equilibrium_part: Last part of the run over which `equilibrium_ratio` takes the median.
        equilibrium_steps: Single steps in it below which there is none.
    """

    id: ClassVar[str] = "elr"
    title: ClassVar[str] = "effective learning rate and regime"
    definition: ClassVar[str] = (
        "Over the scale-invariant tensors (those with ⟨g, θ⟩ = 0), ρ² = Σ‖θ_i‖²; ELR = η/ρ²; "
        "effective gradient norm = ρ‖g‖ of the recorded gradient, averaged in blocks of rows for "
        "the verdict; angular update = angle between consecutive snapshots. Per tensor "
        "ELR_i = η/‖θ_i‖², and Σ 1/ELR_i = 1/ELR. Regime: convergence if loss and effective "
        "gradient norm fall over the last stretch between changes of their course, or the loss has "
        "reached its floor; "
        "chaotic equilibrium if both are flat with the loss well below its random level; "
        "divergence if the loss is at that level. equilibrium_ratio = observed angular update / "
        "the one at which gradients and weight decay balance: cos = 1 - ηλ for SGD, "
        "√(2ηλ/(1+β)) with momentum, √(2ηλ(1-β)/(1+β)) if the decay is decoupled (AdamW: form "
        'after "rotational equilibrium", arXiv 2305.17212).'
    )
    reference: ClassVar[str] = "arXiv 2209.03695; arXiv 2106.15739; arXiv 2305.17212"
    ingredients: ClassVar[str] = (
        "params; gradients (effective gradient norm, regime, finding the tensors); scalars "
        "learning_rate and loss; group scale_invariant if known"
    )

    equilibrium_part: Part = 0.5
    equilibrium_steps: Count = 5

    def needs(self, header: Header) -> frozenset[Need] | Skipped:
        """Norms and turns of each tensor, and what tells which tensors are scale-invariant."""
        if not header.has("params"):
            return Skipped("no params are recorded; append params=... at each step", "params")
        if not declared_tensors(header) and not header.has("gradients"):
            return Skipped(
                "no tensor is declared scale-invariant and there are no gradients to find them "
                "by; declare groups={'scale_invariant': [...]} or append gradients=...",
                "gradients",
                _DECLARE,
            )
        return invariance_needs(header) | {
            Inner(THETA, THETA, per_tensor=True),
            Inner(THETA, STEP, per_tensor=True),
            Inner(STEP, STEP, per_tensor=True),
        }

    def compute(self, measured: Measurements) -> MetricResult:
        """ELR, effective gradient norm, angular update and regime of the run."""
        header = measured.header
        invariant = find_invariant(measured, self)
        if not invariant.tensors:
            nothing = self._nothing("skipped", invariant.reason, invariant)
            return structs.replace(nothing, remedy=f"{_DECLARE} if some are")
        norm = inner_over(measured, THETA, THETA, invariant.tensors)
        across = inner_over(measured, THETA, STEP, invariant.tensors)
        moved = inner_over(measured, STEP, STEP, invariant.tensors)
        if norm is None or across is None or moved is None:
            return self._nothing(
                "insufficient",
                "the memory budget left no room for per-tensor values; give a larger --memory",
                invariant,
            )
        steps = header.timeline_steps(SNAPSHOTS)
        norm = np.where(np.isfinite(norm), norm, np.nan)  # η over an infinite one is no rate of 0
        if not (norm > 0).any():
            return self._nothing("insufficient", "no snapshot is finite and not zero", invariant)
        learning_rate = header.learning_rate_at(steps)
        with np.errstate(divide="ignore", invalid="ignore"):
            elr = learning_rate / norm
        angle = turn(norm, across, moved)[0]
        slope_steps, slope = self._effective_gradient_norm(measured, invariant)
        notes = self._notes(header, invariant, steps, elr, slope)
        regime = self._regime(header, slope_steps, slope, angle)
        rotation = self._rotation(header, steps, angle[None, :])
        summary = self._summary(invariant, regime) | {
            "elr_first": number(first(elr)),
            "elr_last": number(last(elr)),
            **{name: told[0] for name, told in rotation.items()},
            **stated_median("angular_update_median", angle),
            "effective_windows": number(effective_windows(angle)),
            "rho_squared_first": number(first(norm)),
            "rho_squared_last": number(last(norm)),
        }
        curves = {
            "rho_squared": series(steps, norm),
            "elr": series(steps, elr),
            "effective_gradient_norm": Series([], [])
            if slope is None
            else series(slope_steps, slope),
            "angular_update": series(steps[:-1], angle[:-1]),
        }
        return MetricResult(
            status="ok",
            summary=summary,
            series=curves,
            per_tensor=self._per_tensor(measured, invariant, steps),
            findings=[
                *invariance_findings(self.id, invariant, self),
                *regime_finding(self.id, regime),
            ],
            definition=self.definition,
            reference=self.reference,
            notes=notes,
            sentence=regime_sentence(regime, summary),
            salience=_SALIENCE.get(regime.word, 0.15),
            options=self.options,
        )

    def _nothing(self, status: Any, reason: str, invariant: Invariant) -> MetricResult:
        """A result that says why there is none."""
        nothing = Regime("undetermined", None, reason)
        empty = ("rho_squared", "elr", "effective_gradient_norm", "angular_update")
        undefined = ("elr_first", "elr_last", "equilibrium_ratio", "equilibrium_ratio_interval")
        return MetricResult(
            status=status,
            reason=reason,
            summary=self._summary(invariant, nothing) | dict.fromkeys(undefined),
            series={name: Series([], []) for name in empty},
            findings=invariance_findings(self.id, invariant, self),
            definition=self.definition,
            reference=self.reference,
            options=self.options,
        )

    def _summary(self, invariant: Invariant, regime: Regime) -> dict[str, Any]:
        return {
            "scale_invariant_tensors": list(invariant.tensors),
            "regime": regime.word,
            "regime_since_step": regime.since_step,
            "regime_since_interval": regime.since_interval,
            "regime_reason": regime.reason,
        }

    def _effective_gradient_norm(
        self, measured: Measurements, invariant: Invariant
    ) -> tuple[NDArray[np.int64], Float | None]:
        """ρ‖g‖ where both were recorded; None where gradients are missing or still scaled."""
        header = measured.header
        if not header.has("params", "gradients") or header.gradient.get("stage") == "scaled":
            return np.empty(0, np.int64), None
        norm = inner_over(measured, PAIRED_THETA, PAIRED_THETA, invariant.tensors)
        slope = inner_over(measured, PAIRED_GRADIENT, PAIRED_GRADIENT, invariant.tensors)
        if norm is None or slope is None:
            return np.empty(0, np.int64), None
        return header.timeline_steps(PAIRED), np.sqrt(norm) * np.sqrt(slope)

    def _regime(
        self, header: Header, slope_steps: NDArray[np.int64], slope: Float | None, angle: Float
    ) -> Regime:
        if "loss" not in header.scalars:
            return Regime("undetermined", None, "the loss was not recorded")
        recorded, losses = header.scalars["loss"]
        steps = recorded if slope is None else slope_steps
        return classify(
            steps,
            header.scalar_at("loss", steps),
            slope,
            level=random_level(recorded, losses, self),
            turned=float(np.nansum(angle)),
            rule=self,
        )

    def _rotation(
        self, header: Header, steps: NDArray[np.int64], angles: Float
    ) -> dict[str, list[Any]]:
        return equilibrium_figures(
            header,
            steps,
            angles,
            part=self.equilibrium_part,
            fewest=self.equilibrium_steps,
        )

    def _per_tensor(
        self, measured: Measurements, invariant: Invariant, steps: NDArray[np.int64]
    ) -> dict[str, TensorResult]:
        """Each tensor's own rate, turn and slope, and how surely it is scale-invariant."""
        header = measured.header
        names, norms = of_tensors(measured, THETA, THETA, invariant.tensors)
        across = of_tensors(measured, THETA, STEP, names)[1]
        moved = of_tensors(measured, STEP, STEP, names)[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            elr = header.learning_rate_at(steps) / np.where(np.isfinite(norms), norms, np.nan)
        angles = turn(norms, across, moved)[0]
        told = results(
            names,
            {
                "rho_squared": numbers(lasts(norms)),
                "elr_first": numbers(firsts(elr)),
                "elr": numbers(lasts(elr)),
                **stated_means("angular_update", rows(angles)),
                **stated_means("effective_gradient_norm", rows(_slopes(measured, names))),
                **self._rotation(header, steps, angles),
            },
        )
        for name, result in told.items():
            result.summary.update(invariant.summary(name))
        return told

    def _notes(
        self,
        header: Header,
        invariant: Invariant,
        steps: NDArray[np.int64],
        elr: Float,
        slope: Float | None,
    ) -> list[str]:
        notes = [
            invariant.note,
            "Intervals of means and medians are 95 %, for effective windows by autocorrelation; "
            "that of regime_since_step holds the steps at which the change may as well lie.",
        ]
        if not np.isfinite(elr).any():
            notes.append(
                "The learning rate was not recorded (scalar learning_rate), so there is no ELR."
            )
        if header.gradient.get("stage") == "scaled":
            notes.append(
                "The recorded gradients still hold the loss scale; no effective gradient norm "
                "is taken from them."
            )
        elif slope is None:
            recorded = header.tensors.get("gradients", {})
            without = [name for name in invariant.tensors if name not in recorded]
            if not header.has("gradients"):
                why = "No gradients are recorded"
            elif without:
                why = f"Not every scale-invariant tensor has gradients ({listed(without)}: none)"
            else:
                why = "The memory budget left no room for per-tensor values"
            notes.append(f"{why}, so there is no effective gradient norm.")
        elif (stage := header.gradient.get("stage")) in {"clipped", "replayed"}:
            notes.append(f"The effective gradient norm is that of the {stage} gradients.")
        if len(steps) > 1 and np.nanmax(strides_of(steps)) > 1:
            notes.append(
                "Snapshots are more than one step apart, so the angular update there is over "
                "the whole stride; equilibrium_ratio uses adjacent steps alone."
            )
        return notes


def _slopes(measured: Measurements, names: list[str]) -> Float:
    """Each tensor's ρ‖g‖, shape (tensors, rows); NaN where gradients are missing or scaled."""
    header = measured.header
    slopes = np.full((len(names), len(header.timeline_steps(PAIRED))), np.nan)
    if header.has("gradients") and header.gradient.get("stage") != "scaled":
        lengths, gradients = (
            measured.per_tensor(row, row) for row in (PAIRED_THETA, PAIRED_GRADIENT)
        )
        for slope, name in zip(slopes, names, strict=True):
            if name in gradients:
                slope[:] = np.sqrt(lengths[name]) * np.sqrt(gradients[name])
    return slopes
