"""The most trusted estimate of the sharpness that a run offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.metrics.curvature import PathCurvature
from trajfile.metrics.exact import Exact
from trajfile.metrics.thresholds import Threshold, stability_threshold

Float = NDArray[np.float64]
Kind = Literal["exact", "recorded", "ritz_lower_bound", "secant"]

#: Scalars taken for a measured lambda_max of the loss Hessian, in order of preference.
RECORDED = ("sharpness", "lambda_max")
#: The same for the Hessian preconditioned as Adam does.
RECORDED_PRECONDITIONED = ("preconditioned_sharpness", "preconditioned_lambda_max")
#: Estimators that measure λ_max itself, where the others bound it.
MEASURED = ("exact", "recorded")


@dataclass(frozen=True)
class Estimate:
    """One estimate of the sharpness along the run, and what it may be held against.

    Attributes:
        kind: The estimator.
        steps: int64, shape (n,).
        values: float64, shape (n,).
        errors: Residual norm of each eigenpair; NaN for a recorded scalar, which states none.
        trusted: On which of them a verdict may rest, bool, shape (n,).
        comparable: Whether they are of the Hessian that the threshold limits.
    """

    kind: Kind
    steps: NDArray[np.int64]
    values: Float
    errors: Float
    trusted: NDArray[np.bool_]
    comparable: bool


def recorded_name(header: Header, named: str | None) -> str | None:
    """The scalar that holds a measured sharpness, if any value of it is finite.

    Args:
        header: What the run holds.
        named: The only scalar to take, or None for the usual names.

    Returns:
        Its name, or None.
    """
    names: tuple[str, ...] = RECORDED
    if stability_threshold(header, np.empty(0, np.int64)).preconditioned:
        names = RECORDED_PRECONDITIONED + RECORDED
    for name in (named,) if named is not None else names:
        if name in header.scalars and np.isfinite(header.scalars[name][1]).any():
            return name
    return None


def best_estimate(
    header: Header,
    path: PathCurvature,
    threshold: Threshold,
    *,
    named: str | None,
    exact: Exact | None,
    noisy: bool,
) -> Estimate:
    """By replay, else as recorded, else from the path: the Ritz values, or the secants under noise.

    Args:
        header: What the run holds.
        path: Its secants and Ritz values.
        threshold: What they are to be held against.
        named: The scalar that holds a measured sharpness; see `recorded_name`.
        exact: What replay brought, if there was one.
        noisy: Whether the gradients are not of the whole data. The Ritz value picks the direction
            that looks sharpest, which with the least noise is one in which the run hardly moved.

    Returns:
        The estimate.
    """
    if exact is not None:
        return Estimate(
            "exact",
            exact.replayed.steps,
            exact.values,
            exact.residuals,
            exact.converged,
            exact.preconditioned == threshold.preconditioned,
        )
    name = recorded_name(header, named)
    if name is None and noisy:
        unstated, known_at = np.full(len(path.steps), np.nan), np.isfinite(path.secant)
        comparable = not threshold.preconditioned
        return Estimate("secant", path.steps, path.secant, unstated, known_at, comparable)
    if name is None:
        judged = path.full & np.isfinite(path.ritz)
        comparable = not threshold.preconditioned
        return Estimate("ritz_lower_bound", path.steps, path.ritz, path.error, judged, comparable)
    at, known = header.scalars[name]
    # A scalar of another name was named by the user, who knows what it holds.
    unlike = RECORDED if threshold.preconditioned else RECORDED_PRECONDITIONED
    unstated = np.full(len(known), np.nan)
    return Estimate("recorded", at, known, unstated, np.isfinite(known), name not in unlike)
