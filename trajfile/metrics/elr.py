"""Effective learning rate of scale-invariant tensors, and the regime it leads to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Inner, Need
from trajfile.linalg import turn
from trajfile.metrics.base import Metric, Skipped
from trajfile.metrics.regime import Regime, RegimeRule, classify, random_level
from trajfile.metrics.robust import first, last, mean, median
from trajfile.metrics.rotation import equilibrium_angle
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
from trajfile.report import Finding, MetricResult, Series, TensorResult, number, series

Float = NDArray[np.float64]

_SALIENCE = {"divergence": 0.95, "chaotic_equilibrium": 0.75, "convergence": 0.5}


@dataclass(frozen=True)
class Elr(RegimeRule, InvarianceRule, Metric):
    """ELR = η/ρ², effective gradient norm ρ‖g‖, angular update, and the regime.

    Series: `rho_squared` Σ‖θ_i‖² over the scale-invariant tensors; `elr` η/ρ²;
    `effective_gradient_norm` ρ‖g‖ (where gradients were recorded with a snapshot);
    `angular_update` in radians from each snapshot to the next.

    Attributes:
        equilibrium_part: Last part of the run over which `equilibrium_ratio` takes the median.
    """

    id: ClassVar[str] = "elr"
    title: ClassVar[str] = "effective learning rate and regime"
    definition: ClassVar[str] = (
        "Over the scale-invariant tensors (those with ⟨g, θ⟩ = 0), ρ² = Σ‖θ_i‖²; ELR = η/ρ²; "
        "effective gradient norm = ρ‖g‖ of the recorded gradient, averaged in blocks of rows for "
        "the verdict; angular update = angle between consecutive snapshots. Per tensor "
        "ELR_i = η/‖θ_i‖², and Σ 1/ELR_i = 1/ELR. Regime: convergence if loss and effective "
        "gradient norm fall over the second half of the run, or the loss has reached its floor; "
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

    equilibrium_part: float = 0.5

    def needs(self, header: Header) -> frozenset[Need] | Skipped:
        """Norms and turns of each tensor, and what tells which tensors are scale-invariant."""
        if not header.has("params"):
            return Skipped("no params are recorded; append params=... at each step", "params")
        if not declared_tensors(header) and not header.has("gradients"):
            return Skipped(
                "no tensor is declared scale-invariant and there are no gradients to find them "
                "by; declare groups={'scale_invariant': [...]} or append gradients=...",
                "gradients",
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
            return self._nothing("skipped", invariant.reason, invariant)
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
        if not np.isfinite(norm).any() or not len(steps):
            return self._nothing("insufficient", "no snapshot is finite", invariant)
        learning_rate = header.learning_rate_at(steps)
        with np.errstate(divide="ignore", invalid="ignore"):
            elr = learning_rate / norm
        angle = turn(norm, across, moved)[0]
        slope_steps, slope = self._effective_gradient_norm(measured, invariant)
        notes = self._notes(header, invariant, steps, elr, slope)
        regime = self._regime(header, slope_steps, slope, angle)
        predicted, ratio = self._equilibrium(header, steps, angle, learning_rate)
        summary = self._summary(invariant, regime) | {
            "elr_first": number(first(elr)),
            "elr_last": number(last(elr)),
            "equilibrium_ratio": number(ratio),
            "equilibrium_angle": number(predicted),
            "angular_update_median": number(median(angle)),
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
            per_tensor=_per_tensor(measured, invariant, learning_rate),
            findings=[
                *invariance_findings(self.id, invariant, self),
                *_regime_finding(regime),
            ],
            definition=self.definition,
            reference=self.reference,
            notes=notes,
            sentence=_sentence(regime, summary),
            salience=_SALIENCE.get(regime.word, 0.15),
            options=self.options,
        )

    def _nothing(self, status: Any, reason: str, invariant: Invariant) -> MetricResult:
        """A result that says why there is none."""
        nothing = Regime("undetermined", None, reason)
        empty = ("rho_squared", "elr", "effective_gradient_norm", "angular_update")
        undefined = ("elr_first", "elr_last", "equilibrium_ratio")
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

    def _equilibrium(
        self, header: Header, steps: NDArray[np.int64], angle: Float, learning_rate: Float
    ) -> tuple[float, float]:
        """Predicted angle of one step, and observed over predicted, late in the run."""
        expected = equilibrium_angle(header, learning_rate)
        if expected is None or len(steps) < 2:
            return math.nan, math.nan
        late = steps >= steps[-1] - self.equilibrium_part * (steps[-1] - steps[0])
        adjacent = strides_of(steps) == 1
        return median(expected[late]), median((angle / expected)[late & adjacent])

    def _notes(
        self,
        header: Header,
        invariant: Invariant,
        steps: NDArray[np.int64],
        elr: Float,
        slope: Float | None,
    ) -> list[str]:
        notes = [invariant.note]
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
            notes.append(
                "Not every scale-invariant tensor has gradients, so there is no effective "
                "gradient norm."
            )
        elif header.gradient.get("stage") == "clipped":
            notes.append("The effective gradient norm is that of the clipped gradients.")
        if len(steps) > 1 and np.nanmax(strides_of(steps)) > 1:
            notes.append(
                "Snapshots are more than one step apart, so the angular update there is over "
                "the whole stride; equilibrium_ratio uses adjacent steps alone."
            )
        return notes


def _per_tensor(
    measured: Measurements, invariant: Invariant, learning_rate: Float
) -> dict[str, TensorResult]:
    norms = measured.per_tensor(THETA, THETA)
    across = measured.per_tensor(THETA, STEP)
    moved = measured.per_tensor(STEP, STEP)
    results = {}
    for name in invariant.tensors:
        if name not in norms:
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            elr = learning_rate / norms[name]
        results[name] = TensorResult(
            {
                "rho_squared": number(last(norms[name])),
                "elr": number(last(elr)),
                "angular_update": number(mean(turn(norms[name], across[name], moved[name])[0])),
                "scale_invariance": number(invariant.cosine.get(name)),
            }
        )
    return results


def _regime_finding(regime: Regime) -> list[Finding]:
    if regime.word == "undetermined":
        return []
    name = regime.word.replace("_", " ")
    return [
        Finding(
            "elr.regime",
            "warn" if regime.word == "divergence" else "info",
            f"The run ends in {name}, {_since(regime)}: {regime.reason}.",
            {"regime": regime.word, "since_step": regime.since_step, **regime.evidence},
        )
    ]


def _since(regime: Regime) -> str:
    """When the regime began, to the resolution of a block of rows."""
    step = regime.since_step
    return f"since about step {step}" if step else "from the start"


def _sentence(regime: Regime, summary: dict[str, Any]) -> str:
    """What the run's effective learning rate did, with the figures that matter."""
    rate = "an effective learning rate that was not recorded"
    if summary["elr_last"] is not None:
        rate = f"an effective learning rate of {summary['elr_last']:.2g}"
    evidence = regime.evidence
    loss, level = evidence.get("loss"), evidence.get("random_loss")
    if regime.word == "convergence":
        return (
            f"At {rate} training converges: loss {loss:.2g}, effective gradient norm "
            f"{evidence['effective_gradient_norm']:.2g}, "
            + ("both still falling" if "fall" in regime.reason else "at its floor")
            + f" ({_since(regime)})."
        )
    if regime.word == "chaotic_equilibrium":
        return (
            f"At {rate} training is in chaotic equilibrium, {_since(regime)}: loss stays near "
            f"{loss:.2g} and the effective gradient norm near "
            f"{evidence['effective_gradient_norm']:.2g}."
        )
    if regime.word == "divergence":
        return (
            f"At {rate} training diverges, {_since(regime)}: the loss, {loss:.2g}, is no better "
            f"than its random level, {level:.2g}."
        )
    return f"The regime is undetermined: {regime.reason}; the run ends at {rate}."
