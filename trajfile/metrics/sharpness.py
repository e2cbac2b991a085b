"""Sharpness against the stability limit: how steep was the valley the run moved through?

Without the model and the data lambda_max of the loss cannot be measured. In order of trust: the
Hessian of the user's own loss by replay, a sharpness that the recorder measured, the top Ritz value
on the recorded displacements, and the secant curvature of each of them. The last two bound
lambda_max from below.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Need, Replay
from trajfile.metrics import robust
from trajfile.metrics.base import Metric, Skipped
from trajfile.metrics.curvature import PathCurvature, curvature_needs, path_curvature
from trajfile.metrics.edge import Edge, judge_edge
from trajfile.metrics.exact import exact_of, replay_need
from trajfile.metrics.snapshots import PAIRED
from trajfile.metrics.thresholds import Threshold, stability_threshold
from trajfile.report import Finding, MetricResult, Series, number, series
from trajfile.schema import GRADIENTS, PARAMS

Float = NDArray[np.float64]
Steps = NDArray[np.int64]

#: Scalars taken for a measured lambda_max of the loss Hessian, in order of preference.
RECORDED = ("sharpness", "lambda_max")
#: The same for the Hessian preconditioned as Adam does.
RECORDED_PRECONDITIONED = ("preconditioned_sharpness", "preconditioned_lambda_max")
#: Estimators that measure λ_max itself, where the others bound it.
MEASURED = ("exact", "recorded")


@dataclass(frozen=True)
class _Estimate:
    """One estimate of the sharpness along the run, and what it may be held against."""

    kind: str
    steps: Steps
    values: Float
    trusted: NDArray[np.bool_]
    comparable: bool


@dataclass(frozen=True)
class Sharpness(Metric):
    """Sharpness against the stability limit.

    Attributes:
        window: Number of consecutive displacements that span a Ritz subspace.
        asymmetry: Largest ||M - M'||/||M|| of the projected Hessian M; directions that would
            exceed it are dropped.
        recorded: Scalar that holds a measured sharpness; None: the first of ``sharpness`` and
            ``lambda_max`` (with Adam, of the ``preconditioned_`` ones).
        edge_low: Lowest sharpness/threshold that counts as at the edge.
        edge_high: Highest one.
        edge_part: Share of the estimates, from the end of the run, that decides.
        edge_samples: Fewest estimates that can decide.
        replay_snapshots: Most snapshots to replay: half evenly spread, the rest where the
            sharpness changes most.
        replay_top: Largest eigenvalues to find at each.
        replay_tolerance: Residual, as a share of the largest |eigenvalue| seen, at which an
            eigenpair counts as found.
        replay_iterations: Most Hessian-vector products of the search at one snapshot.
        replay_trace: Hessian-vector products for the trace at one snapshot; 0 for none.
        replay_float64: Whether the loss is given float64 tensors instead of those recorded.
    """

    window: int = 6
    asymmetry: float = 0.02
    recorded: str | None = None
    edge_low: float = 0.9
    edge_high: float = 1.5
    edge_part: float = 0.25
    edge_samples: int = 8
    replay_snapshots: int = 16
    replay_top: int = 3
    replay_tolerance: float = 1e-3
    replay_iterations: int = 100
    replay_trace: int = 30
    replay_float64: bool = False

    id: ClassVar[str] = "sharpness"
    title: ClassVar[str] = "sharpness against the stability limit"
    definition: ClassVar[str] = (
        "Sharpness is λ_max of the loss Hessian. The secant curvature of an update is "
        "⟨Δg, Δθ⟩/‖Δθ‖², a lower bound of λ_max of the Hessian averaged along it. The Ritz value "
        "is the top eigenvalue of (M + Mᵀ)/2, M = QᵀHQ the Hessian on the span of the last "
        "displacements, from Δg = HΔθ; directions in which M is not symmetric are dropped, "
        "because there the displacements saw different Hessians. The threshold is the curvature "
        "at which the optimizer becomes unstable on a quadratic: 2/η for gradient descent, "
        "(2 + 2β)/η for heavy ball, (2 + 2β)/(η(1 + 2β)) for Nesterov, and for Adam "
        "(2 + 2β₁)/((1 − β₁)η) on the preconditioned Hessian."
    )
    reference: ClassVar[str] = (
        "Cohen et al., Gradient Descent on Neural Networks Typically Occurs at the Edge of "
        "Stability, arXiv 2103.00065; Adaptive Gradient Methods at the Edge of Stability, "
        "arXiv 2207.14484; Jastrzebski et al., arXiv 2002.09572"
    )
    ingredients: ClassVar[str] = (
        "params and full-batch gradients of consecutive steps, learning_rate; or a recorded "
        "sharpness scalar; or params and the user's loss (replay)"
    )

    def needs(self, header: Header) -> frozenset[Need] | Skipped:
        """Inner products of displacements and gradient differences; the user's loss, if given."""
        replay = self._replay(header)
        path = self._path_needs(header)
        if replay is None:
            return path
        return frozenset({replay}) | (frozenset() if isinstance(path, Skipped) else path)

    def _replay(self, header: Header) -> Replay | None:
        return replay_need(
            header,
            snapshots=self.replay_snapshots,
            top=self.replay_top,
            tolerance=self.replay_tolerance,
            iterations=self.replay_iterations,
            trace=self.replay_trace,
            float64=self.replay_float64,
        )

    def _path_needs(self, header: Header) -> frozenset[Need] | Skipped:
        usable = header.has(PARAMS, GRADIENTS)
        if usable and header.gradient.get("stage") != "scaled":
            return curvature_needs(self.window)
        if self._recorded_name(header) is not None:
            return frozenset()
        if usable:
            return Skipped(
                "The gradients were recorded with a loss scale in them, which curvature cannot be "
                "told from; record them unscaled, or record a sharpness scalar."
            )
        missing = GRADIENTS if header.has(PARAMS) else PARAMS
        return Skipped(
            "Curvature needs params and gradients of the same steps, or a recorded scalar "
            f"named sharpness; the run holds no {missing}.",
            missing,
        )

    def compute(self, measured: Measurements) -> MetricResult:
        """Secants, Ritz values, what was recorded, and the verdict on the edge of stability."""
        header = measured.header
        path = path_curvature(measured, self.window, self.asymmetry)
        name = self._recorded_name(header)
        at, known = header.scalars[name] if name is not None else (path.steps[:0], path.secant[:0])
        need = self._replay(header)
        exact = None if need is None else exact_of(header, measured.replay(need))
        if exact is not None and exact.problem is not None:
            return self._insufficient(exact.problem)
        if not np.isfinite(path.secant).any() and name is None and exact is None:
            return self._insufficient(
                "Curvature needs params and gradients at two common steps at least, with finite "
                f"values; found {len(header.timeline_steps(PAIRED))} common steps."
            )
        replayed = exact.replayed.steps if exact is not None else at[:0]
        everywhere = np.union1d(np.union1d(path.steps, at), replayed)
        threshold = stability_threshold(header, everywhere)
        estimate = self._estimate(header, path, threshold)
        if exact is not None:
            estimate = _Estimate(
                "exact",
                replayed,
                exact.values,
                exact.converged,
                exact.preconditioned == threshold.preconditioned,
            )
        limit = threshold.values[np.searchsorted(everywhere, estimate.steps)]
        ratio = estimate.values / limit if estimate.comparable else np.full(len(limit), np.nan)
        edge = judge_edge(
            estimate.steps,
            np.where(estimate.trusted, ratio, np.nan),
            lower_bound=estimate.kind == "ritz_lower_bound",
            band=(self.edge_low, self.edge_high),
            part=self.edge_part,
            least=self.edge_samples,
        )
        if estimate.kind == "ritz_lower_bound" and _noise(header) is not None:
            edge = Edge(None, edge.median, edge.inside, edge.samples, None)
        shown: dict[str, Series] = {
            "secant": series(path.steps, path.secant),
            "ritz": series(path.steps, path.ritz),
            "ritz_rank": series(path.steps, path.rank.astype(np.float64)),
            "asymmetry": series(path.steps, path.asymmetry),
            "threshold": series(everywhere, threshold.values),
        }
        if name is not None:
            shown["recorded"] = series(at, known)
        if exact is not None:
            shown |= exact.shown()
        summary = {
            "estimator": estimate.kind,
            "max": number(_largest(estimate.values)),
            "last": number(robust.last(estimate.values)),
            "threshold_last": number(robust.last(limit)),
            "edge_ratio_last": number(robust.last(ratio)),
            "at_edge": edge.at_edge,
            "edge_ratio_median": number(edge.median),
            "edge_since_step": edge.since,
            "threshold_rule": threshold.rule,
            "secant_max": number(_largest(path.secant)),
            "asymmetry_median": number(robust.median(path.asymmetry)),
        }
        if exact is not None:
            summary |= exact.summary()
        sentence, salience = self._sentence(header, summary)
        return MetricResult(
            "ok",
            summary=summary,
            series=shown,
            findings=self._findings(summary, edge),
            definition=self.definition,
            reference=self.reference,
            notes=([] if exact is None else exact.notes(threshold))
            + self._notes(header, threshold, estimate, path),
            sentence=sentence,
            salience=salience,
            options=self.options,
            caveat="noisy Ritz, no bound"
            if estimate.kind == "ritz_lower_bound" and _noise(header) is not None
            else None,
        )

    def _insufficient(self, reason: str) -> MetricResult:
        return MetricResult(
            "insufficient",
            reason,
            definition=self.definition,
            reference=self.reference,
            options=self.options,
        )

    def _recorded_name(self, header: Header) -> str | None:
        """The scalar that holds a measured sharpness, if any value of it is finite."""
        names: tuple[str, ...] = RECORDED
        if stability_threshold(header, np.empty(0, np.int64)).preconditioned:
            names = RECORDED_PRECONDITIONED + RECORDED
        for name in (self.recorded,) if self.recorded is not None else names:
            if name in header.scalars and np.isfinite(header.scalars[name][1]).any():
                return name
        return None

    def _estimate(self, header: Header, path: PathCurvature, threshold: Threshold) -> _Estimate:
        """The most trusted estimate of the sharpness that the run offers."""
        name = self._recorded_name(header)
        if name is None:
            judged = path.full & np.isfinite(path.ritz)
            comparable = not threshold.preconditioned
            return _Estimate("ritz_lower_bound", path.steps, path.ritz, judged, comparable)
        at, known = header.scalars[name]
        # A scalar of another name was named by the user, who knows what it holds.
        unlike = RECORDED if threshold.preconditioned else RECORDED_PRECONDITIONED
        comparable = name not in unlike
        return _Estimate("recorded", at, known, np.isfinite(known), comparable)

    def _findings(self, summary: dict[str, Any], edge: Edge) -> list[Finding]:
        evidence = {
            "ratio_median": number(edge.median),
            "inside_band": edge.inside,
            "estimates": edge.samples,
            "estimator": summary["estimator"],
            "since_step": edge.since,
        }
        if edge.at_edge:
            return [
                Finding(
                    "sharpness.at_edge",
                    "info",
                    f"The sharpness hovers at {edge.median:.2f} of the stability threshold "
                    f"{summary['threshold_rule']} = {summary['threshold_last']:.4g}.",
                    evidence,
                )
            ]
        if edge.at_edge is False and edge.median > self.edge_high:
            return [
                Finding(
                    "sharpness.above_threshold",
                    "warn",
                    f"The measured sharpness stays at {edge.median:.2f} of the stability threshold "
                    f"{summary['threshold_rule']}: the learning rate is too large for it.",
                    evidence,
                )
            ]
        return []

    def _notes(
        self, header: Header, threshold: Threshold, estimate: _Estimate, path: PathCurvature
    ) -> list[str]:
        notes = [threshold.note] if threshold.note else []
        if self.recorded is not None and self._recorded_name(header) is None:
            notes.append(f"The run holds no scalar {self.recorded!r} with a finite value.")
        noise = _noise(header)
        seen = bool(np.isfinite(path.secant).any())
        if seen and noise is not None:
            spread = robust.median(path.asymmetry)
            notes.append(f"{noise} Median ‖M − Mᵀ‖/‖M‖ is {spread:.2g}; 0 is free of noise.")
        if seen and header.gradient.get("stage") == "clipped":
            notes.append("The gradients were clipped: where the clip acted, secants are wrong.")
        without = set(header.tensors.get(PARAMS, ())) - set(header.tensors.get(GRADIENTS, ()))
        if seen and without:
            notes.append(
                f"{len(without)} tensors have params but no gradients: where they move they add to "
                "‖Δθ‖², and the curvature is understated."
            )
        if seen and path.strides.max() > 1:
            notes.append(
                f"Snapshots lie up to {path.strides.max()} steps apart: those secants average the "
                "curvature along the chord between them."
            )
        if estimate.kind == "ritz_lower_bound":
            notes.append(
                "The Ritz value sees only directions the run moved in: λ_max may be larger."
            )
        return notes

    def _sentence(self, header: Header, summary: dict[str, Any]) -> tuple[str | None, float]:
        top, limit, ratio = summary["max"], summary["threshold_last"], summary["edge_ratio_median"]
        kind = summary["estimator"]
        measured = kind in MEASURED
        if top is None:
            return None, 0.0
        if summary["at_edge"]:
            what = f"{kind} sharpness" if measured else "Ritz lower bound of the sharpness"
            since = summary["edge_since_step"]
            when = f" since step {since}" if since is not None else ""
            return (
                f"Training ran at the edge of stability: the {what} has hovered at {ratio:.2f} of "
                f"the threshold {summary['threshold_rule']} = {limit:.4g}{when}.",
                0.85,
            )
        if measured and summary["at_edge"] is False and ratio is not None:
            side = "below" if ratio < 1 else "above"
            return (
                f"The {kind} sharpness stays {side} the stability threshold "
                f"{summary['threshold_rule']}: {ratio:.2f} of it over the last part of the run.",
                0.3 if ratio < 1 else 0.85,
            )
        if measured:
            return f"The {kind} sharpness reached {top:.4g}.", 0.25
        if _noise(header) is not None:
            return (
                f"The curvature along the path looks like {top:.4g} at most, but gradient noise "
                "biases this estimate: it says nothing about the edge of stability.",
                0.15,
            )
        beside = "" if ratio is None else f", typically {ratio:.2f} of the threshold at the end"
        return (
            f"Curvature along the path reached {top:.4g}{beside}; being a lower bound, it leaves "
            "open whether training was at the edge of stability.",
            0.25,
        )


def _noise(header: Header) -> str | None:
    """Why the gradient differences are not of one loss, or None if they are."""
    source = header.gradient.get("source")
    if source == "full_batch":
        return None
    what = "are of mini-batches" if source == "mini_batch" else "are not said to be full-batch"
    return (
        f"The gradients {what}: two steps then see different losses, and their noise, which also "
        "moved the params, pulls secants over s steps towards 1/(ηs); they carry no verdict."
    )


def _largest(values: Float) -> float:
    kept = robust.finite(values)
    return float(kept.max()) if len(kept) else float("nan")
