"""The sharpness as replay measured it: what to ask of the user's loss, and what to report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Replayed
from trajfile.engine.needs import Preconditioner, Replay
from trajfile.errors import UsageError
from trajfile.metrics import robust
from trajfile.metrics.thresholds import Threshold, stability_threshold
from trajfile.report import Series, number, series
from trajfile.schema import OPTIMIZER_PREFIX, PARAMS

Float = NDArray[np.float64]

#: Replayed and recorded losses that differ by more than this share are not the same loss.
SAME_LOSS = 1e-3


@dataclass(frozen=True)
class Exact:
    """What replay brought, as the metric reports it.

    Attributes:
        replayed: The measurements.
        recorded_loss: The recorded loss at the replayed steps, float64; NaN where there is none.
        full_batch: Whether that is the loss on all of the data.
    """

    replayed: Replayed
    recorded_loss: Float
    full_batch: bool

    @property
    def preconditioned(self) -> bool:
        """Whether the preconditioned Hessian was measured."""
        return bool(self.replayed.preconditioned.shape[1])

    @property
    def values(self) -> Float:
        """What is held against the threshold: the preconditioned sharpness, if measured."""
        replayed = self.replayed
        kept = replayed.preconditioned if self.preconditioned else replayed.eigenvalues
        return kept[:, 0]

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Where the residual of `values` is within the tolerance."""
        replayed = self.replayed
        return replayed.preconditioned_converged if self.preconditioned else replayed.converged

    @property
    def residuals(self) -> Float:
        """Bounds of the distance from `values` to an eigenvalue."""
        replayed = self.replayed
        kept = replayed.preconditioned_residuals if self.preconditioned else replayed.residuals
        return kept[:, 0]

    @property
    def problem(self) -> str | None:
        """Why there is no value at all, or None."""
        replayed = self.replayed
        if np.isfinite(self.values).any():
            return None
        if not len(replayed.steps):
            return (
                f"--replay {replayed.source} found no snapshot that holds every tensor and, for "
                "Adam, its exp_avg_sq after a first update."
            )
        where = f"at any of the {len(replayed.steps)} snapshots replayed"
        if np.isfinite(replayed.loss).any():
            return (
                f"The derivatives of the loss of --replay {replayed.source} are not finite {where}."
            )
        return f"The loss of --replay {replayed.source} is not finite {where}."

    @property
    def loss_difference(self) -> float:
        """Largest |replayed - recorded|/|recorded| loss of a full-batch run; NaN if unknown."""
        if not self.full_batch:
            return float("nan")
        recorded = self.recorded_loss
        return _largest(np.abs(self.replayed.loss - recorded) / np.abs(recorded))

    def shown(self) -> dict[str, Series]:
        """The series, by name."""
        replayed = self.replayed
        steps = replayed.steps
        shown = {
            "exact": series(steps, replayed.eigenvalues[:, 0]),
            "exact_residual": series(steps, replayed.residuals[:, 0]),
            "exact_loss": series(steps, replayed.loss),
            "exact_gradient_norm": series(steps, replayed.gradient_norm),
        }
        for rank in range(1, replayed.eigenvalues.shape[1]):
            shown[f"exact_{rank + 1}"] = series(steps, replayed.eigenvalues[:, rank])
            shown[f"exact_{rank + 1}_residual"] = series(steps, replayed.residuals[:, rank])
        if np.isfinite(replayed.trace).any():
            shown["exact_trace"] = series(steps, replayed.trace)
            shown["exact_trace_error"] = series(steps, replayed.trace_error)
        if self.preconditioned:
            shown["exact_preconditioned"] = series(steps, self.values)
            shown["exact_preconditioned_residual"] = series(steps, self.residuals)
        return shown

    def summary(self) -> dict[str, Any]:
        """The figures, by name."""
        replayed = self.replayed
        relative = self.residuals / np.abs(self.values)
        return {
            "exact_snapshots": len(replayed.steps),
            "exact_converged": int(self.converged.sum()),
            "exact_residual_max": number(_largest(relative)),
            "exact_top_last": [number(value) for value in replayed.eigenvalues[-1]],
            "exact_preconditioned_last": (
                number(robust.last(self.values)) if self.preconditioned else None
            ),
            "exact_trace_last": number(robust.last(replayed.trace)),
            "exact_trace_error_last": number(robust.last(replayed.trace_error)),
            "exact_loss_difference": number(self.loss_difference),
            "exact_products": replayed.products,
        }

    def notes(self, threshold: Threshold) -> list[str]:
        """What a reader has to know of the replay."""
        replayed = self.replayed
        count = len(replayed.steps)
        lost = int((~np.isfinite(self.values)).sum())
        notes = [
            f"Replayed with {replayed.source} at {count} snapshots in {', '.join(replayed.dtypes)}"
            f", {replayed.products} Hessian-vector products. A residual bounds the distance to an "
            "eigenvalue of the Hessian there, not which one it is."
        ]
        if lost:
            notes.append(f"At {lost} of them the loss or a derivative of it is not finite.")
        if unsure := count - lost - int(self.converged.sum()):
            notes.append(
                f"At {unsure} of them the residual stayed above replay_tolerance: these are lower "
                "bounds, and no verdict rests on them. Allow more replay_iterations."
            )
        if self.loss_difference > SAME_LOSS:
            notes.append(
                f"The replayed loss differs from the recorded full-batch loss by up to "
                f"{self.loss_difference:.2g} of it: they are not the same loss."
            )
        if replayed.unused:
            names = ", ".join(replayed.unused[:3]) + (", …" if len(replayed.unused) > 3 else "")
            notes.append(
                f"The replayed loss does not depend on {len(replayed.unused)} of the recorded "
                f"tensors: {names}."
            )
        if threshold.preconditioned and not self.preconditioned:
            notes.append(
                "Adam's threshold limits the preconditioned Hessian; record optimizer/exp_avg_sq "
                "of every tensor for it."
            )
        if self.preconditioned:
            notes.append(
                "Adam's preconditioner is that of exp_avg_sq as recorded before each step, "
                "bias-corrected for a run whose steps are the optimizer's count."
            )
        return notes


def replay_need(
    header: Header,
    *,
    snapshots: int,
    top: int,
    tolerance: float,
    iterations: int,
    trace: int,
    float64: bool,
) -> Replay | None:
    """What to ask of the user's loss; None if it is not at hand or there are no snapshots.

    Args:
        header: The run.
        snapshots: As in `Replay`, like all that follow.
        top: Largest eigenvalues.
        tolerance: Relative residual.
        iterations: Most products of a search.
        trace: Products for the trace.
        float64: Whether to promote.

    Returns:
        The need.

    Raises:
        UsageError: If an option is out of its range.
    """
    if not header.replay or not header.has(PARAMS):
        return None
    for name, value, least in (
        ("snapshots", snapshots, 1),
        ("top", top, 1),
        ("iterations", iterations, 2),
    ):
        if value < least:
            raise UsageError(f"option sharpness.replay_{name}={value} must be at least {least}")
    if not 0 < tolerance < 1:
        raise UsageError(f"option sharpness.replay_tolerance={tolerance} must lie between 0 and 1")
    if trace != 0 and trace < 6:
        raise UsageError(
            f"option sharpness.replay_trace={trace} must be at least 6, or 0 for no trace"
        )
    adam = _preconditioner(header)
    return Replay(snapshots, top, tolerance, iterations, trace, float64, adam)


def exact_of(header: Header, replayed: Replayed) -> Exact:
    """The replay of a run, beside what the run recorded."""
    recorded = header.scalar_at("loss", replayed.steps)
    trained_on = header.gradient.get("trained_on", header.gradient.get("source"))
    return Exact(replayed, recorded, trained_on == "full_batch")


def _preconditioner(header: Header) -> Preconditioner | None:
    """Adam's, if the run recorded it for every tensor."""
    betas = header.optimizer.get("betas")
    if not stability_threshold(header, np.empty(0, np.int64)).preconditioned or not betas:
        return None
    name = "max_exp_avg_sq" if header.optimizer.get("amsgrad") else "exp_avg_sq"
    slot = OPTIMIZER_PREFIX + name
    moments = header.tensors.get(slot, {})
    wanted = [n for n, t in header.tensors[PARAMS].items() if "float" in t.dtype]
    if not header.has(slot) or not all(name in moments for name in wanted):
        return None
    eps = header.optimizer.get("eps")
    return Preconditioner(
        slot, (float(betas[0]), float(betas[1])), 1e-8 if eps is None else float(eps)
    )


def _largest(values: Float) -> float:
    kept = robust.finite(values)
    return float(kept.max()) if len(kept) else float("nan")
