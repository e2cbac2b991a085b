"""How much of the curvature that mini-batch gradients show is noise.

Gradients of two mini-batches differ by curvature times displacement and by their noise, and the
noise of the first has also moved the params: it enters s_k with the weight -w_k, w_k = eta_k for
plain SGD. So <y_k, s_k> is too large by w_k tr K on average, K being the covariance of a mini-batch
gradient, and the secant by w_k tr K/||s_k||^2: a loss without any curvature shows 1/(eta stride).

Recorded gradient samples give tr K. Without them plain SGD leaves the asymmetry of M = Q'HQ: a
Hessian is symmetric, and the noise of w displacements in a row is not. Their M is (1/eta) times a
bidiagonal matrix, of which the antisymmetric part holds (w - 1)/(2w - 1) of the squared norm. As
Hessians that differ are asymmetric too, this never makes a signal look better than it is. With
momentum the displacements are nearly parallel and their M nearly symmetric, noise or not, so the
asymmetry says nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import SampleGram
from trajfile.metrics import robust
from trajfile.metrics.curvature import PathCurvature
from trajfile.metrics.intervals import median_interval

Float = NDArray[np.float64]

SAMPLES = SampleGram()


@dataclass(frozen=True)
class SecantSignal:
    """Signal-to-noise of the secants: the part due to curvature over the part due to noise.

    Attributes:
        ratio: The median over the run or over its last quarter, whichever is smaller; NaN if
            nothing tells.
        low: Lower end of its 95 % interval; NaN where there is none.
        high: Upper end of it.
        source: What it was judged by; None if nothing tells.
        pairs: On how many displacements.
    """

    ratio: float
    low: float
    high: float
    source: Literal["gradient_samples", "asymmetry"] | None
    pairs: int


def secant_signal(measured: Measurements, path: PathCurvature, window: int) -> SecantSignal:
    """Judge the secants of a run with mini-batch gradients.

    Args:
        measured: With gradient samples, if the run has them and `SAMPLES` was declared.
        path: Its secants.
        window: Number of displacements of a Ritz window.

    Returns:
        The ratio: from the samples for SGD; without samples from the asymmetry for plain SGD.
    """
    noise = _expected(measured, path)
    ratios = np.divide(path.secant, noise, out=np.full(len(noise), np.nan), where=noise > 0) - 1
    ratios = ratios[np.isfinite(ratios)]
    if len(ratios):
        # The signal fades as the loss falls while the noise stays: the end of the run counts too.
        parts = ratios, ratios[-max(len(ratios) // 4, 1) :]
        ratio, interval = min(
            ((robust.median(x), median_interval(x)) for x in parts), key=lambda pair: pair[0]
        )
        return SecantSignal(ratio, interval.low, interval.high, "gradient_samples", len(ratios))
    judged = robust.finite(path.asymmetry[path.full])
    spread = robust.median(judged)
    if window < 2 or not measured.header.is_plain_sgd or not math.isfinite(spread):
        return SecantSignal(math.nan, math.nan, math.nan, None, 0)
    share = spread**2 * (2 * window - 1) / (2 * (window - 1))
    ratio = math.sqrt(max(1 / share - 1, 0.0)) if share > 0 else math.inf
    return SecantSignal(ratio, math.nan, math.nan, "asymmetry", len(judged))


def _expected(measured: Measurements, path: PathCurvature) -> Float:
    """w_k tr K/||s_k||² of each displacement; NaN where it is not known."""
    nothing = np.full(len(path.steps), np.nan)
    grams = measured.sample_grams.get(SAMPLES)
    weight = _weight(measured.header, path)
    if grams is None or weight is None:
        return nothing
    counts = np.array([len(gram) for gram in grams.grams])
    trace = np.array([float(np.trace(gram)) for gram in grams.grams])
    known = (counts > 1) & np.isfinite(trace)
    if not known.any():
        return nothing
    at = grams.steps[known].astype(np.float64)
    between = np.interp(
        path.steps, at, trace[known] / (counts[known] - 1), left=np.nan, right=np.nan
    )
    expected: Float = np.divide(weight * between, path.moved, out=nothing, where=path.moved > 0)
    return expected


def _weight(header: Header, path: PathCurvature) -> Float | None:
    """With what weight g_k enters θ_{k+s} - θ_k, turned positive; None if not linear in g."""
    optimizer = header.optimizer
    if str(optimizer.get("name", "")).upper() not in {"SGD", "GD"}:
        return None
    beta = header.momentum
    rates = header.learning_rate_at(path.steps)
    # A gradient stays in the momentum buffer and moves the params again in each later step.
    lasting = (1 - beta**path.strides) / (1 - beta) if beta < 1 else path.strides * 1.0
    if optimizer.get("nesterov"):
        return np.asarray(rates * (1 + beta * lasting), np.float64)
    kept = 1 - float(optimizer.get("dampening") or 0.0) if beta else 1.0
    return np.asarray(rates * kept * lasting, np.float64)
