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
from trajfile.linalg import cosine
from trajfile.metrics.base import Metric, Skipped
from trajfile.metrics.recorded_updates import UpdateSource, find_source
from trajfile.metrics.regularity_bound import regularity_bound
from trajfile.metrics.robust import mean
from trajfile.report import Finding, MetricResult, Series, TensorResult, number, series

Float = NDArray[np.float64]

_SERIES = ("inner", "update_norm_squared", "loss_gap", "distance_squared", "cosine", "gamma")
_SUMMARY = (
    "gamma_trajectory", "gamma_aggregate", "violated_fraction", "cosine_mean", "reference_step",
    "verdict", "gamma_upper_bound", "bound_left", "bound_right", "bound_holds",
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
        aligned_fraction: And aligned if at most this part does.
        fewest_rows: Update rows below which there is no verdict.
    """

    id: ClassVar[str] = "alignment"
    title: ClassVar[str] = "updates against the trajectory"
    definition: ClassVar[str] = (
        "Form after the regularity principle: ⟨θ_k - θ*, U_k⟩ ≥ (γ/2)‖U_k‖² + γ(ℓ_k - inf ℓ) for "
        "all k, with the update U_k in θ_{k+1} = θ_k - η_k U_k. With a = ⟨θ_k - θ*, U_k⟩, "
        "b = ‖U_k‖², gap = ℓ_k - inf ℓ: γ_k = a/(b/2 + gap); gamma_trajectory = min γ_k; "
        "gamma_aggregate = Σa/Σ(b/2 + gap); violated_fraction = mean(a ≤ 0); cosine_mean = mean "
        "cosine of (θ_k - θ*, U_k). Rows in which θ_k is θ* itself or U_k is 0 do not count. If "
        "η ≤ γ at a constant η, Σ gap ≤ ‖θ_0 - θ*‖²/(2ηγ): bound_left and bound_right, over the "
        "rows that gamma_trajectory is taken from. Larger γ: better aligned, faster convergence."
    )
    reference: ClassVar[str] = "arXiv 2011.06702"
    ingredients: ClassVar[str] = (
        "params; updates, else params of adjacent steps and scalar learning_rate; scalar loss"
    )

    loss_infimum: float = 0.0
    reference_step: int | None = None
    tail: float = 0.95
    misaligned_fraction: float = 0.25
    aligned_fraction: float = 0.05
    fewest_rows: int = 20

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
        return frozenset(Inner(left, right, per_tensor=True) for left, right in pairs)

    def compute(self, measured: Measurements) -> MetricResult:
        """γ, cosines and their verdict."""
        header = measured.header
        reference = self._reference(header)
        source = find_source(header, reference)
        # In the last row a displacement does not exist.
        count = len(source.steps) - (0 if source.recorded else 1)
        if count < 1:
            return self._insufficient("one update is needed: two snapshots, or updates", reference)
        steps = source.steps[:count]
        distance = measured.inner(source.distance, source.distance)[:count]
        raw_inner = measured.inner(source.distance, source.row)[:count]
        raw_square = measured.inner(source.row, source.row)[:count]
        if not np.isfinite(distance).any():
            return self._insufficient(
                f"θ*, the snapshot of step {reference}, is not finite; set "
                "alignment.reference_step to one that is",
                reference,
            )
        scale = source.scale[:count]
        a, b = raw_inner * scale, raw_square * scale**2
        away = distance > 0
        # The direction of a displacement is known even where its scale, for want of η, is not.
        sign = 1 if source.recorded else -1
        cos = np.where(away, sign * cosine(distance, raw_square, raw_inner), np.nan)
        gap = header.scalar_at("loss", steps) - self.loss_infimum
        denominator = b / 2 + gap
        with np.errstate(divide="ignore", invalid="ignore"):
            gamma = np.where(away & (b > 0) & (denominator > 0), a / denominator, np.nan)
        known = np.isfinite(gamma)
        kept = known & self._kept(count, reference, header)
        judged = np.isfinite(cos)
        violated = float((cos[judged] <= 0).mean()) if judged.any() else math.nan
        gamma_trajectory = float(gamma[kept].min()) if kept.any() else math.nan
        aggregate = _ratio(a[known].sum(), denominator[known].sum())
        summary: dict[str, Any] = dict.fromkeys(_SUMMARY) | {
            "gamma_trajectory": number(gamma_trajectory),
            "gamma_aggregate": number(aggregate),
            "violated_fraction": number(violated),
            "cosine_mean": number(mean(cos)),
            "reference_step": reference,
            "verdict": self._verdict(violated, int(judged.sum())),
        }
        if not known.any() and np.isfinite(a).any():
            full = np.isfinite(a) & np.isfinite(b) & away
            summary["gamma_upper_bound"] = number(_ratio(a[full].sum(), b[full].sum() / 2))
        bound = None
        through = int(kept.sum())
        if kept[:through].all():  # no row in between whose γ_k is unknown
            rates = header.learning_rate_at(steps[:through])
            bound = regularity_bound(
                gap[:through],
                distance[:through],
                rates,
                source.adjacent[:through],
                gamma_trajectory,
            )
        if bound:
            summary |= {
                "bound_left": bound.left,
                "bound_right": bound.right,
                "bound_holds": bound.holds,
            }
        values = {
            "inner": a,
            "update_norm_squared": b,
            "loss_gap": gap,
            "distance_squared": distance,
            "cosine": cos,
            "gamma": gamma,
        }
        return MetricResult(
            status="ok",
            summary=summary,
            series={name: series(steps, value) for name, value in values.items()},
            per_tensor=_per_tensor(measured, source, count, known, float(denominator[known].sum())),
            findings=[
                *self._findings(summary, steps, cos, gap),
                *(bound.findings if bound else []),
            ],
            definition=self.definition,
            reference=self.reference,
            notes=self._notes(header, source, reference, known, gap),
            sentence=self._sentence(summary),
            salience=0.7 if summary["verdict"] == "misaligned" else 0.35,
            options=self.options,
        )

    def _reference(self, header: Header) -> int:
        """The step of θ*."""
        chosen = self.reference_step
        return int(header.steps["params"][-1]) if chosen is None else chosen

    def _kept(self, count: int, reference: int, header: Header) -> NDArray[np.bool_]:
        """The rows that `gamma_trajectory` is taken from."""
        if reference != header.steps["params"][-1]:
            return np.ones(count, np.bool_)
        return np.arange(count) < math.floor(self.tail * count)

    def _verdict(self, violated: float, rows: int) -> str:
        """A word for the part of the updates that point away from θ*."""
        if rows < self.fewest_rows or not math.isfinite(violated):
            return "undetermined"
        if violated >= self.misaligned_fraction:
            return "misaligned"
        return "aligned" if violated <= self.aligned_fraction else "partly aligned"

    def _findings(
        self, summary: dict[str, Any], steps: NDArray[np.int64], cos: Float, gap: Float
    ) -> list[Finding]:
        found = []
        if summary["verdict"] in {"aligned", "misaligned", "partly aligned"}:
            tenths = [part for part in np.array_split(np.arange(len(steps)), 10) if len(part)]
            away = [mean(np.where(np.isnan(cos[p]), np.nan, cos[p] <= 0)) for p in tenths]
            worst = int(np.nanargmax(away))
            span = f"{steps[tenths[worst][0]]} to {steps[tenths[worst][-1]]}"
            found.append(
                Finding(
                    "alignment.verdict",
                    "warn" if summary["verdict"] == "misaligned" else "info",
                    f"{summary['violated_fraction']:.0%} of the updates point away from the "
                    f"snapshot of step {summary['reference_step']}, at most {away[worst]:.0%} in "
                    f"a tenth of the run (steps {span}): {summary['verdict']}.",
                    {
                        "violated_fraction": summary["violated_fraction"],
                        "violated_fraction_by_tenth": [number(part) for part in away],
                        "cosine_mean": summary["cosine_mean"],
                    },
                )
            )
        below = np.flatnonzero(gap < 0)
        if len(below):
            found.append(
                Finding(
                    "alignment.loss_below_infimum",
                    "warn",
                    f"The loss falls below loss_infimum {self.loss_infimum:g}, first at step "
                    f"{steps[below[0]]}; set alignment.loss_infimum to its true lower bound.",
                    {"first_step": int(steps[below[0]]), "smallest_gap": float(np.nanmin(gap))},
                )
            )
        return found

    def _notes(
        self,
        header: Header,
        source: UpdateSource,
        reference: int,
        known: NDArray[np.bool_],
        gap: Float,
    ) -> list[str]:
        notes = [*source.notes]
        if reference == header.steps["params"][-1]:
            notes.insert(
                0,
                f"θ* is the last snapshot (step {reference}); γ_k collapses towards it, so the "
                f"last {1 - self.tail:.0%} of the update rows are left out of gamma_trajectory.",
            )
        if not np.isfinite(gap).any():
            notes.append(
                "The loss was not recorded at these steps, so γ is undefined; gamma_upper_bound "
                "is Σa/Σ(b/2), what gamma_aggregate would be without any loss gap."
            )
        elif known.any():
            notes.append(f"inf ℓ is taken as {self.loss_infimum:g}; option loss_infimum.")
            if header.weight_decay > 0:
                notes.append(
                    "U_k includes the weight decay, the recorded loss presumably not; γ compares "
                    "the two as they are."
                )
        return notes

    def _sentence(self, summary: dict[str, Any]) -> str | None:
        violated, cos = summary["violated_fraction"], summary["cosine_mean"]
        if violated is None or cos is None:
            return None
        gamma = summary["gamma_aggregate"]
        tail = f", γ = {gamma:.2g} in aggregate" if gamma is not None else ""
        if summary["verdict"] == "misaligned":
            return (
                f"Updates are misaligned: {violated:.0%} of them point away from where training "
                f"ended up (mean cosine {cos:.2g}{tail})."
            )
        if summary["verdict"] == "aligned":
            return f"Updates are aligned with the trajectory: mean cosine {cos:.2g}{tail}."
        return (
            f"Of the updates {violated:.0%} point away from where training ended up (mean cosine "
            f"{cos:.2g}{tail})."
        )

    def _insufficient(self, reason: str, reference: int) -> MetricResult:
        """A result that says why there is none."""
        return MetricResult(
            status="insufficient",
            reason=reason,
            summary=dict.fromkeys(_SUMMARY)
            | {"reference_step": reference, "verdict": "undetermined"},
            series={name: Series([], []) for name in _SERIES},
            definition=self.definition,
            reference=self.reference,
            options=self.options,
        )


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below > 0 else math.nan


def _per_tensor(
    measured: Measurements,
    source: UpdateSource,
    count: int,
    known: NDArray[np.bool_],
    denominator: float,
) -> dict[str, TensorResult]:
    """Each tensor's cosine, and its share of `gamma_aggregate` (the shares add up to it)."""
    distance = measured.per_tensor(source.distance, source.distance)
    square = measured.per_tensor(source.row, source.row)
    results = {}
    for name, inner in measured.per_tensor(source.distance, source.row).items():
        raw = cosine(distance[name][:count], square[name][:count], inner[:count])
        cos = raw if source.recorded else -raw
        judged = cos[np.isfinite(cos)]
        share = float((inner[:count] * source.scale[:count])[known].sum())
        results[name] = TensorResult(
            {
                "cosine_mean": number(mean(cos)),
                "violated_fraction": number(float((judged <= 0).mean()) if len(judged) else None),
                "gamma_share": number(_ratio(share, denominator)),
            }
        )
    return results
