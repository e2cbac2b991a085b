"""Sharpness against the stability limit: how steep was the valley the run moved through?

Without the model and the data lambda_max of the loss cannot be measured. In order of trust: the
Hessian of the user's own loss by replay, a sharpness that the recorder measured, the top Ritz value
on the recorded displacements, and the secant curvature of each of them. The last two bound
lambda_max from below.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Need, Replay
from trajfile.metrics import robust
from trajfile.metrics.base import Metric, Skipped
from trajfile.metrics.curvature import curvature_needs, path_curvature, tensor_secants
from trajfile.metrics.edge import judge_edge
from trajfile.metrics.estimate import MEASURED, best_estimate, recorded_name
from trajfile.metrics.exact import exact_of, replay_need
from trajfile.metrics.ranges import Count, Name, NotNegative, Part, ProperPart, Several, Share
from trajfile.metrics.secant_noise import SAMPLES, secant_signal
from trajfile.metrics.sharpness_words import findings, notes, sentence, too_noisy, unlike_losses
from trajfile.metrics.snapshots import PAIRED
from trajfile.metrics.thresholds import stability_threshold
from trajfile.report import MetricResult, Status, number, series, series_of
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS, PARAMS

Float = NDArray[np.float64]

#: What a run of which the gradients are mostly noise cannot give.
_FIGURES = (
    "estimator",
    "max",
    "last",
    "last_error",
    "edge_ratio_last",
    "edge_ratio_median",
    "edge_ratio_interval",
)


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
        edge_part: Share of the estimates, from the end of the run, that is described where they
            do not level off at the edge.
        edge_samples: Fewest estimates that can decide, and displacements that can show a
            signal-to-noise.
        signal_floor: Least signal-to-noise of mini-batch secants for their curvature to be given.
        replay_snapshots: Most snapshots to replay: half evenly spread, the rest where the
            sharpness changes most.
        replay_top: Largest eigenvalues to find at each.
        replay_tolerance: Residual, as a share of the largest |eigenvalue| seen, at which an
            eigenpair counts as found.
        replay_iterations: Most Hessian-vector products of the search at one snapshot.
        replay_trace: Hessian-vector products for the trace at one snapshot; 0 for none.
        replay_float64: Whether the loss is given float64 tensors instead of those recorded.
    """

    window: Annotated[int, Meta(ge=1, le=100)] = 6
    asymmetry: Share = 0.02
    recorded: Name | None = None
    edge_low: NotNegative = 0.9
    edge_high: NotNegative = 1.5
    edge_part: Part = 0.25
    edge_samples: Count = 8
    signal_floor: NotNegative = 3.0
    replay_snapshots: Count = 24
    replay_top: Count = 3
    replay_tolerance: ProperPart = 1e-3
    replay_iterations: Several = 100
    replay_trace: Annotated[int, Meta(ge=0, le=1000)] = 30
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
            # Samples say how much of a mini-batch secant is noise.
            sampled = unlike_losses(header) is not None and header.has(GRADIENT_SAMPLES)
            return curvature_needs(self.window) | ({SAMPLES} if sampled else set())
        if recorded_name(header, self.recorded) is not None:
            return frozenset()
        if usable:
            return Skipped(
                "The gradients were recorded with a loss scale in them, which curvature cannot be "
                "told from; record them unscaled, or record a sharpness scalar.",
                remedy="record them unscaled",
            )
        missing = GRADIENTS if header.has(PARAMS) else PARAMS
        return Skipped(
            "Curvature needs params and gradients of the same steps, or a recorded scalar "
            f"named sharpness; the run holds no {missing}.",
            missing,
        )

    def compute(self, measured: Measurements) -> MetricResult:
        """Secants, Ritz values, what was measured, and the verdict on the edge of stability."""
        header = measured.header
        path = path_curvature(measured, self.window, self.asymmetry)
        name = recorded_name(header, self.recorded)
        at, known = header.scalars[name] if name is not None else (path.steps[:0], path.secant[:0])
        need = self._replay(header)
        exact = None if need is None else exact_of(header, measured.replay(need))
        if exact is not None and exact.problem is not None:
            return self._result("insufficient", exact.problem)
        if not np.isfinite(path.secant).any() and name is None and exact is None:
            return self._result(
                "insufficient",
                "Curvature needs params and gradients at two common steps or more, and params that "
                f"moved, all finite; found {len(header.timeline_steps(PAIRED))} common steps.",
            )
        replayed = exact.replayed.steps if exact is not None else at[:0]
        everywhere = np.union1d(np.union1d(path.steps, at), replayed)
        threshold = stability_threshold(header, everywhere)
        noisy = unlike_losses(header) is not None
        estimate = best_estimate(
            header, path, threshold, named=self.recorded, exact=exact, noisy=noisy
        )
        bound = estimate.kind not in MEASURED
        signal = secant_signal(measured, path, self.window) if noisy else None
        clear = signal is None or (
            signal.ratio >= self.signal_floor and signal.pairs >= self.edge_samples
        )
        limit = threshold.values[np.searchsorted(everywhere, estimate.steps)]
        ratio = estimate.values / limit if estimate.comparable else np.full(len(limit), np.nan)
        edge = judge_edge(
            estimate.steps,
            np.where(estimate.trusted, ratio, np.nan),
            lower_bound=bound,
            band=(self.edge_low, self.edge_high),
            part=self.edge_part,
            least=self.edge_samples,
        )
        if bound and noisy:
            edge = replace(edge, at_edge=None, since=None, since_range=None)
        along_path = {
            "secant": path.secant,
            "ritz": path.ritz,
            "ritz_error": path.error,
            "ritz_rank": path.rank.astype(np.float64),
            "asymmetry": path.asymmetry,
        }
        shown = series_of(path.steps, along_path)
        shown["threshold"] = series(everywhere, threshold.values)
        if name is not None:
            shown["recorded"] = series(at, known)
        if exact is not None:
            shown |= exact.shown()
        summary = {
            "estimator": estimate.kind,
            "max": number(robust.largest(estimate.values)),
            "last": number(robust.last(estimate.values)),
            "last_error": number(_beside(estimate.values, estimate.errors)),
            "threshold_last": number(robust.last(limit)),
            "edge_ratio_last": number(robust.last(ratio)),
            "at_edge": edge.at_edge,
            "edge_ratio_median": number(edge.median),
            "edge_ratio_interval": edge.interval.pair,
            "edge_samples": edge.samples,
            "edge_since_step": edge.since,
            "edge_since_range": None if edge.since_range is None else list(edge.since_range),
            "threshold_rule": threshold.rule,
            "secant_max": number(robust.largest(path.secant)) if clear else None,
            "asymmetry_median": number(robust.median(path.asymmetry)),
            "signal_to_noise": number(signal.ratio) if signal is not None else None,
            "signal_source": signal.source if signal is not None else None,
        }
        if exact is not None:
            summary |= exact.summary()
        said = [] if exact is None else exact.notes(threshold)
        said += [threshold.note] if threshold.note else []
        if self.recorded is not None and name is None:
            said.append(f"The run holds no scalar {self.recorded!r} with a finite value.")
        said += notes(header, estimate, path, signal)
        if bound and not clear and signal is not None:
            # The series stay for whoever knows better; a figure would be taken at its word.
            summary |= dict.fromkeys(_FIGURES)
            reason = too_noisy(header, signal, self.signal_floor, self.edge_samples)
            return self._result("insufficient", reason, summary=summary, series=shown, notes=said)
        told, salience = sentence(header, summary)
        return self._result(
            "ok",
            None,
            summary=summary,
            series=shown,
            per_tensor=tensor_secants(measured) if clear else {},
            findings=findings(summary, edge, self.edge_high),
            notes=said,
            sentence=told,
            salience=salience,
            caveat="noisy, no bound" if bound and noisy else None,
        )

    def _result(self, status: Status, reason: str | None, **parts: Any) -> MetricResult:
        return MetricResult(
            status,
            reason,
            definition=self.definition,
            reference=self.reference,
            options=self.options,
            **parts,
        )


def _beside(values: Float, errors: Float) -> float:
    """The error of the last finite value."""
    known = np.flatnonzero(np.isfinite(values))
    return float(errors[known[-1]]) if len(known) else float("nan")
