"""Whether updates point along the trajectory: the regularity principle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Inner, Need
from trajfile.metrics.alignment_words import sentence, share
from trajfile.metrics.base import Metric, Skipped
from trajfile.metrics.intervals import fraction_interval, stated
from trajfile.metrics.late import late_note
from trajfile.metrics.loss_rise import loss_rise, rise_findings
from trajfile.metrics.ranges import Count, Factor, Finite, Share, Step
from trajfile.metrics.recorded_updates import UpdateSource, find_source
from trajfile.metrics.regularity import (
    Bound,
    Regularity,
    gamma_figures,
    regularity,
    regularity_bound,
    tensor_figures,
)
from trajfile.metrics.robust import mean
from trajfile.metrics.update_law import UpdateLaw, law_needs, law_notes, update_law
from trajfile.report import Finding, MetricResult, Series, number, series_of

Float = NDArray[np.float64]

_SERIES = ("inner", "update_norm_squared", "loss_gap", "distance_squared", "cosine", "gamma")
_SUMMARY = (
    "gamma_trajectory", "gamma_trajectory_step", "gamma_aggregate", "gamma_aggregate_interval",
    "violated_fraction", "violated_fraction_interval", "cosine_mean", "cosine_mean_interval",
    "effective_windows", "reference_step", "verdict", "approach_fraction",
    "approach_fraction_interval", "gamma_upper_bound",
    "gamma_upper_bound_interval", "bound_left", "bound_right", "bound_holds", "update_residual",
    "loss_rise",
)  # fmt: skip


@dataclass(frozen=True)
class Alignment(Metric):
    """γ of the regularity principle, with everything it is made of.

    Series: `inner` ⟨θ_k - θ*, U_k⟩; `update_norm_squared` ‖U_k‖²; `loss_gap` ℓ_k - inf ℓ;
    `distance_squared` ‖θ_k - θ*‖²; `cosine` of θ_k - θ* and U_k; `gamma` γ_k.

    Attributes:
        loss_infimum: inf ℓ.
        reference_step: Step of the snapshot taken as θ*; the last one by default.
        tail: Of K update rows, those from index floor(tail·K) on are left out of
            `gamma_trajectory` if θ* is the last snapshot.
        misaligned_fraction: Updates are misaligned if at least this part of them points away.
        aligned_fraction: And aligned if at most this part does,
        approach_fraction: and at least this part of the rows brings θ nearer to θ*. (About a last
            snapshot even aimless displacements never point away: each is part of the way there.)
        fewest_rows: Update rows below which there is no verdict.
        fewest_updates: Update rows below which there is no figure either.
        update_residual: There is no verdict if recorded updates miss the displacements of single
            steps by more than this part of them (median),
        loss_rise: nor "aligned" if the loss about θ* is more than this many times the first one.
    """

    id: ClassVar[str] = "alignment"
    title: ClassVar[str] = "updates against the trajectory"
    definition: ClassVar[str] = (
        "Form after the regularity principle: ⟨θ_k - θ*, U_k⟩ ≥ (γ/2)‖U_k‖² + γ(ℓ_k - inf ℓ) for "
        "all k, with the update U_k in θ_{k+1} = θ_k - η_k U_k. With a = ⟨θ_k - θ*, U_k⟩, "
        "b = ‖U_k‖², gap = ℓ_k - inf ℓ: γ_k = a/(b/2 + gap); gamma_trajectory = min γ_k; "
        "gamma_aggregate = Σa/Σ(b/2 + gap); violated_fraction = mean(a ≤ 0); cosine_mean = mean "
        "cosine of (θ_k - θ*, U_k); approach_fraction = part of the rows nearer to θ* than the "
        "row before. Rows in which θ_k is θ* itself or U_k is 0 do not count. If "
        "η ≤ γ at a constant η, Σ gap ≤ ‖θ_0 - θ*‖²/(2ηγ): bound_left and bound_right, over the "
        "rows that gamma_trajectory is taken from. Larger γ: better aligned, faster convergence."
    )
    reference: ClassVar[str] = "arXiv 2011.06702"
    ingredients: ClassVar[str] = (
        "params; updates, else params of adjacent steps and scalar learning_rate; scalar loss"
    )

    loss_infimum: Finite = 0.0
    reference_step: Step | None = None
    tail: Share = 0.95
    misaligned_fraction: Share = 0.25
    aligned_fraction: Share = 0.05
    approach_fraction: Share = 0.75
    fewest_rows: Count = 20
    fewest_updates: Count = 5
    update_residual: Share = 0.1
    loss_rise: Factor = 2.0

    def needs(self, header: Header) -> frozenset[Need] | Skipped:
        """Inner products of θ_k - θ* with the updates."""
        if not header.has("params"):
            return Skipped("no params are recorded; append params=... at each step", "params")
        reference = self._reference(header)
        if reference not in header.steps["params"]:
            return Skipped(
                f"no snapshot is recorded at reference_step {reference}; choose one of the steps "
                f"{header.steps['params'][0]} to {header.steps['params'][-1]} that params hold"
            )
        source = find_source(header, reference)
        pairs = (
            (source.distance, source.row),
            (source.row, source.row),
            (source.distance, source.distance),
        )
        inner = frozenset(Inner(left, right, per_tensor=True) for left, right in pairs)
        return inner | law_needs(header, source)

    def compute(self, measured: Measurements) -> MetricResult:
        """γ, cosines and their verdict."""
        header = measured.header
        reference = self._reference(header)
        source = find_source(header, reference)
        if not source.count:
            return self._insufficient("one update is needed: two snapshots, or updates", reference)
        found = regularity(measured, source, self.loss_infimum)
        if not np.isfinite(found.distance).any():
            return self._insufficient(
                f"θ*, the snapshot of step {reference}, is not finite; set "
                "alignment.reference_step to one that is",
                reference,
            )
        values = {
            "inner": found.inner,
            "update_norm_squared": found.square,
            "loss_gap": found.gap,
            "distance_squared": found.distance,
            "cosine": found.cosine,
            "gamma": found.gamma,
        }
        curves = series_of(found.steps, values)
        usable = int(np.isfinite(found.cosine).sum())
        if usable < self.fewest_updates:
            return self._insufficient(
                f"{usable} usable update{'s' * (usable != 1)} cannot tell; "
                f"{self.fewest_updates} are needed",
                reference,
                curves,
            )
        summary, bound = self._summary(header, source, found, reference)
        approach = _approach(measured.inner(source.distance, source.distance))
        spread = fraction_interval(approach, summary["effective_windows"] or 0.0)
        summary |= stated("approach_fraction", approach, spread)
        law = update_law(measured, source, self.update_residual, self.fewest_updates)
        rise = loss_rise(header, reference, self.loss_infimum)
        word = self._verdict(found, summary["violated_fraction"], approach)
        rose = word in {"aligned", "partly aligned"} and rise > self.loss_rise
        doubted = law is not None and law.withholds
        summary |= {
            "verdict": "undetermined" if doubted or rose else word,
            "update_residual": number(law.residual) if law else None,
            "loss_rise": number(rise),
        }
        return MetricResult(
            status="ok",
            summary=summary,
            series=curves,
            per_tensor=tensor_figures(measured, source, found),
            findings=[
                *(law.findings if law else []),
                *(rise_findings(rise, self.loss_rise, reference) if rose else []),
                *self._findings(summary, found),
                *(bound.findings if bound else []),
            ],
            definition=self.definition,
            reference=self.reference,
            notes=self._notes(header, source, reference, found, summary, law),
            sentence=sentence(summary, law.words if law and doubted else None, rose=rose),
            salience=0.7 if doubted or rose or word == "misaligned" else 0.35,
            options=self.options,
            caveat=source.caveat,
        )

    def _reference(self, header: Header) -> int:
        """The step of θ*."""
        chosen = self.reference_step
        return int(header.steps["params"][-1]) if chosen is None else chosen

    def _summary(
        self, header: Header, source: UpdateSource, found: Regularity, reference: int
    ) -> tuple[dict[str, Any], Bound | None]:
        """γ in its forms, and the bound that follows if it applies."""
        kept = found.known.copy()
        if reference == header.steps["params"][-1]:
            kept[math.floor(self.tail * source.count) :] = False
        summary: dict[str, Any] = dict.fromkeys(_SUMMARY) | gamma_figures(found, kept)
        summary["reference_step"] = reference
        rates = header.learning_rate_at(found.steps)
        bound = regularity_bound(found, kept, rates, source.adjacent[: source.count])
        if bound:
            summary |= {
                "bound_left": bound.left,
                "bound_right": bound.right,
                "bound_holds": bound.holds,
            }
        return summary, bound

    def _verdict(self, found: Regularity, violated: float | None, approach: float) -> str:
        """A word for how the updates stand to θ*."""
        rows = int(np.isfinite(found.cosine).sum())
        if rows < self.fewest_rows or violated is None or not math.isfinite(approach):
            return "undetermined"
        if violated >= self.misaligned_fraction:
            return "misaligned"
        towards = violated <= self.aligned_fraction and approach >= self.approach_fraction
        return "aligned" if towards else "partly aligned"

    def _findings(self, summary: dict[str, Any], found: Regularity) -> list[Finding]:
        """The verdict with its evidence, and a loss below its infimum."""
        findings = []
        steps, cos, gap = found.steps, found.cosine, found.gap
        if summary["verdict"] in {"aligned", "misaligned", "partly aligned"}:
            tenths = [part for part in np.array_split(np.arange(len(steps)), 10) if len(part)]
            away = [mean(np.where(np.isnan(cos[p]), np.nan, cos[p] <= 0)) for p in tenths]
            worst = int(np.nanargmax(away))
            span = f"{steps[tenths[worst][0]]} to {steps[tenths[worst][-1]]}"
            most = f" (up to {away[worst]:.0%} in steps {span})" if away[worst] > 0 else ""
            findings.append(
                Finding(
                    "alignment.verdict",
                    "warn" if summary["verdict"] == "misaligned" else "info",
                    f"{share(summary['violated_fraction'])} of the updates point away from the "
                    f"snapshot of step {summary['reference_step']}{most}, and "
                    f"{share(summary['approach_fraction']).lower()} of the rows come nearer to "
                    f"it: {summary['verdict']}.",
                    {
                        "approach_fraction": summary["approach_fraction"],
                        "violated_fraction": summary["violated_fraction"],
                        "violated_fraction_by_tenth": [number(part) for part in away],
                        "cosine_mean": summary["cosine_mean"],
                        "cosine_mean_interval": summary["cosine_mean_interval"],
                    },
                )
            )
        below = np.flatnonzero(gap < 0)
        if len(below):
            findings.append(
                Finding(
                    "alignment.loss_below_infimum",
                    "warn",
                    f"The loss falls below loss_infimum {self.loss_infimum:g}, first at step "
                    f"{steps[below[0]]}; set alignment.loss_infimum to its true lower bound.",
                    {"first_step": int(steps[below[0]]), "smallest_gap": float(np.nanmin(gap))},
                )
            )
        return findings

    def _notes(
        self,
        header: Header,
        source: UpdateSource,
        reference: int,
        found: Regularity,
        summary: dict[str, Any],
        law: UpdateLaw | None,
    ) -> list[str]:
        """What was chosen, and what was missing."""
        notes = [
            *source.notes,
            *law_notes(law),
            *late_note(header, "their distance to θ* and their updates count from there on."),
            f"Intervals are 95 %, for {summary['effective_windows']:.0f} effective windows of the "
            f"{int(np.isfinite(found.cosine).sum())} updates (by the autocorrelation of their "
            "cosines); gamma_trajectory is the least of all rows and has none.",
        ]
        if reference == header.steps["params"][-1]:
            notes.insert(
                0,
                f"θ* is the last snapshot (step {reference}); γ_k collapses towards it, so the "
                f"last {1 - self.tail:.0%} of the update rows are left out of gamma_trajectory.",
            )
        if not np.isfinite(found.gap).any():
            notes.append(
                "The loss was not recorded at these steps, so γ is undefined; gamma_upper_bound "
                "is Σa/Σ(b/2), what gamma_aggregate would be without any loss gap."
            )
        elif found.known.any():
            notes.append(f"inf ℓ is taken as {self.loss_infimum:g}; option loss_infimum.")
            if header.weight_decay > 0:
                notes.append(
                    "U_k includes the weight decay, the recorded loss presumably not; γ compares "
                    "the two as they are."
                )
        return notes

    def _insufficient(
        self, reason: str, reference: int, curves: dict[str, Series] | None = None
    ) -> MetricResult:
        """A result that says why there is none."""
        return MetricResult(
            status="insufficient",
            reason=reason,
            summary=dict.fromkeys(_SUMMARY)
            | {"reference_step": reference, "verdict": "undetermined"},
            series=curves or {name: Series([], []) for name in _SERIES},
            definition=self.definition,
            reference=self.reference,
            options=self.options,
        )


def _approach(distance: Float) -> float:
    """Part of the rows that are nearer to θ* than the row before."""
    steps = np.diff(distance)
    known = steps[np.isfinite(steps)]
    return float((known < 0).mean()) if len(known) else math.nan
