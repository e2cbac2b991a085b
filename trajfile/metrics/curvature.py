"""Curvature along the path: the secant of each displacement, and Ritz values of runs of them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Inner, Need, Row
from trajfile.metrics.ritz import Ritz, ritz_values
from trajfile.metrics.rowwise import lasts, of_tensors, results, rows
from trajfile.metrics.snapshots import PAIRED
from trajfile.report import TensorResult, numbers

Float = NDArray[np.float64]
Steps = NDArray[np.int64]

#: s_i = θ_{i+1} - θ_i and y_i = g_{i+1} - g_i between consecutive common steps.
MOVES = Row("params", PAIRED, "difference")
TURNS = Row("gradients", PAIRED, "difference")

#: Windows whose Ritz values are found together.
_TOGETHER = 1024


@dataclass(frozen=True)
class PathCurvature:
    """What the displacements of a run say of the loss Hessian, one entry per displacement.

    Attributes:
        steps: Step at which the displacement starts, int64, shape (n,).
        strides: Steps it spans, int64, shape (n,).
        secant: <y, s>/||s||^2, float64, shape (n,); NaN where nothing moved or is not finite.
        ritz: Top Ritz value on the window that ends with it; NaN for an empty window.
        rank: Number of directions that value rests on, int64, shape (n,).
        asymmetry: Asymmetry of that window; see `trajfile.metrics.ritz.Ritz`.
        full: Whether the window holds as many pairs as the fullest one, bool, shape (n,).
        error: Residual norm of the Ritz pair; see `trajfile.metrics.ritz.Ritz`.
        moved: ||s||^2, float64, shape (n,); NaN as in `secant`.
    """

    steps: Steps
    strides: Steps
    secant: Float
    ritz: Float
    rank: NDArray[np.int64]
    asymmetry: Float
    full: NDArray[np.bool_]
    error: Float
    moved: Float


def curvature_needs(window: int) -> frozenset[Need]:
    """The inner products for windows of that many displacements."""
    return frozenset(
        {
            Inner(MOVES, MOVES, tuple(range(window))),
            Inner(MOVES, TURNS, tuple(range(1 - window, window))),
            Inner(TURNS, TURNS, tuple(range(window))),
            Inner(MOVES, MOVES, per_tensor=True),
            Inner(MOVES, TURNS, per_tensor=True),
        }
    )


def path_curvature(measured: Measurements, window: int, tolerance: float) -> PathCurvature:
    """Secants and Ritz values along the run.

    Args:
        measured: Holds `curvature_needs` of the same window; without them the result is empty.
        window: Number of displacements that span a Ritz subspace.
        tolerance: Largest accepted asymmetry; see `ritz_values`.

    Returns:
        One entry per displacement.
    """
    steps = measured.header.timeline_steps(PAIRED)
    pairs = max(len(steps) - 1, 0) if (MOVES, TURNS) in measured.bands else 0
    steps = steps[: pairs + 1]
    strides = np.diff(steps)
    squared = np.zeros(0)
    along = np.zeros(0)
    if pairs:
        squared = measured.inner(MOVES, MOVES)[:pairs]
        along = measured.inner(MOVES, TURNS)[:pairs]
    sound = np.isfinite(squared) & np.isfinite(along) & (squared > 0)
    secant = np.divide(along, squared, out=np.full(pairs, np.nan), where=sound)
    member = _members(sound, strides, window)
    ritz = _ritz(measured, member, tolerance)
    count = member.sum(axis=1)
    full = (count > 0) & (count == count.max(initial=0))
    return PathCurvature(
        steps[:pairs],
        strides,
        secant,
        ritz.value,
        ritz.rank,
        ritz.asymmetry,
        full,
        ritz.error,
        np.where(sound, squared, np.nan),
    )


def tensor_secants(measured: Measurements) -> dict[str, TensorResult]:
    """What each tensor's moves say, from its own inner products.

    The secant <y_i, s_i>/||s_i||^2 of tensor i takes in how its gradient changed with the moves of
    all other tensors: y_i = sum_j H_ij s_j. It is the Rayleigh quotient of the diagonal block H_ii
    only where no other tensor moved, or none couples to it; it can be negative on a convex loss.
    The shares <y_i, s_i>/<y, s> add to one.

    Args:
        measured: Holds `curvature_needs`, or nothing of them.

    Returns:
        By tensor: ``secant_median`` and ``secant_last``, and ``secant_share``, the tensor's part
        of the sum of <y, s> over the run. Empty if per-tensor values were not kept.
    """
    if (MOVES, TURNS) not in measured.bands:
        return {}
    names, along = of_tensors(measured, MOVES, TURNS)
    moved = of_tensors(measured, MOVES, MOVES, names)[1]
    known = np.isfinite(measured.inner(MOVES, TURNS))
    whole = float(measured.inner(MOVES, TURNS)[known].sum())
    sound = np.isfinite(along) & (moved > 0)
    secant = np.divide(along, moved, out=np.full(along.shape, np.nan), where=sound)
    own = np.nansum(np.compress(known, along, axis=1), axis=1)
    return results(
        names,
        {
            "secant_median": numbers(rows(secant).medians),
            "secant_last": numbers(lasts(secant)),
            "secant_share": numbers(own / whole if whole else np.full(len(own), np.nan)),
        },
    )


def _members(sound: NDArray[np.bool_], strides: Steps, width: int) -> NDArray[np.bool_]:
    """Which of the last `width` pairs belong to each pair's window, shape (pairs, width)."""
    # A window reaches back over sound pairs whose stride is within a factor of two of its last
    # pair's, so that it never joins bursts of steps across the gap between them.
    row = np.arange(len(sound))[:, None] - width + 1 + np.arange(width)[None, :]
    inside = row >= 0
    row = np.maximum(row, 0)
    near = (strides[row] <= 2 * strides[:, None]) & (strides[:, None] <= 2 * strides[row])
    good = inside & sound[row] & near
    unbroken: NDArray[np.bool_] = np.logical_and.accumulate(good[:, ::-1], axis=1)[:, ::-1]
    return unbroken


def _ritz(measured: Measurements, member: NDArray[np.bool_], tolerance: float) -> Ritz:
    """Ritz values of all windows, some at a time: these stay in the cache, and cores share them."""

    def some(start: int) -> Ritz:
        with np.errstate(all="ignore"):  # a thread has settings of its own
            stop = min(start + _TOGETHER, len(member))
            return ritz_values(*_windows(measured, member, start, stop), tolerance)

    starts = range(0, max(1, len(member)), _TOGETHER)
    if len(starts) == 1:
        return some(0)
    with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1), "trajfile-ritz") as pool:
        parts = list(pool.map(some, starts))
    return Ritz(*(np.concatenate(values) for values in zip(*map(astuple, parts), strict=True)))


def _windows(
    measured: Measurements, member: NDArray[np.bool_], start: int, stop: int
) -> tuple[Float, Float, Float]:
    """<s_a, s_b>, <s_a, y_b> and <y_a, y_b> of windows [start, stop), shape (n, width, width)."""
    width = member.shape[1]
    absent = ~(member[start:stop, :, None] & member[start:stop, None, :])

    def over(left: Row, right: Row, lags: range) -> Float:
        """<left_a, right_b> for all b - a among the lags; zero if a pair is no member."""
        found = np.zeros(absent.shape)
        if start == stop:
            return found
        band = measured.band(left, right)
        for lag in lags:
            products = _near(band.total[:, band.lags.index(lag)], width, start, stop)
            for a in range(max(0, -lag), width - max(0, lag)):
                found[:, a, a + lag] = products[a : a + stop - start]
        found[absent] = 0.0
        return found

    gram, turns = (over(row, row, range(width)) for row in (MOVES, TURNS))
    return _mirrored(gram), over(MOVES, TURNS, range(1 - width, width)), _mirrored(turns)


def _near(products: Float, width: int, start: int, stop: int) -> Float:
    """The rows in windows of `width` that end with [start, stop), zeros for those before the first.

    Returns:
        float64, shape (stop - start + width - 1,): the a-th row of the i-th window at i + a.
    """
    near = products[max(start - width + 1, 0) : stop]
    return np.concatenate([np.zeros(max(stop - start + width - 1 - len(near), 0)), near])


def _mirrored(upper: Float) -> Float:
    """Symmetric matrices, shape (n, w, w), from their upper triangles; zeros are below them."""
    lower = upper.transpose(0, 2, 1).copy()
    at = np.arange(upper.shape[1])
    lower[:, at, at] = 0.0
    return upper + lower
