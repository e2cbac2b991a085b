"""Finding jumps in a trajectory of scale-invariant tensors.

A δ-jump is a step with 1 - cos(θ_t, θ_{t+1}) > δ. Since the step is at right angles to θ, it makes
θ longer: by a factor of 1/(1-δ) or more. Where snapshots are too far apart for the cosine of a
single step, that rise of the norm betrays it (and shows jumps made of several steps below δ, too).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Jumps:
    """Jumps as stretches of rows.

    Attributes:
        start: Last row before each jump, int64, shape (jumps,).
        end: First row after it.
        method: ``cosine``: from single steps; ``norm``: from rises of the norm.
        turning: Part of the rows that are within a jump.
    """

    start: Index
    end: Index
    method: Literal["cosine", "norm"]
    turning: float


def find_jumps(
    steps: Index, cosine_distance: Float, growth: Float, delta: float, refractory: int, cover: float
) -> Jumps:
    """Jumps by single steps if nearly all of them are recorded, else by the norm.

    Args:
        steps: Steps of the snapshots, int64, shape (n,) with n >= 2.
        cosine_distance: 1 - cos(θ_i, θ_{i+1}), float64, shape (n-1,), NaN where unknown.
        growth: ln(‖θ_{i+1}‖²/‖θ_i‖²), likewise.
        delta: δ.
        refractory: As in `jumps_by_cosine`.
        cover: Part of all steps from the first to the last whose cosine must be known.

    Returns:
        The jumps.
    """
    single = np.where(np.diff(steps) == 1, cosine_distance, np.nan)
    if np.isfinite(single).sum() >= cover * (steps[-1] - steps[0]):
        return jumps_by_cosine(single, delta, refractory)
    return jumps_by_norm(growth, delta)


def jumps_by_cosine(cosine_distance: Float, delta: float, refractory: int) -> Jumps:
    """Jumps as rows with 1 - cos > δ; rows within `refractory` of each other are one jump.

    Args:
        cosine_distance: 1 - cos(θ_i, θ_{i+1}), float64, shape (n,), NaN where not of one step.
        delta: δ.
        refractory: Rows without a δ-jump after which another one counts as new.

    Returns:
        The jumps.
    """
    known = np.isfinite(cosine_distance)
    rows = np.flatnonzero(known & (np.where(known, cosine_distance, 0.0) > delta))
    new = np.diff(rows, prepend=-refractory - 2) > refractory
    ends = np.append(new[1:], True)[: len(rows)]
    return Jumps(rows[new], rows[ends] + 1, "cosine", len(rows) / max(int(known.sum()), 1))


def jumps_by_norm(growth: Float, delta: float) -> Jumps:
    """Jumps as unbroken rises of the norm after a decline.

    A rise counts if ‖θ‖² grows by the factor 1/(1-δ)² of one δ-jump or more, and if ‖θ‖ had
    declined by half as much (in logarithm) since the previous jump, or since the first row:
    without that, a norm that grows from its initialisation would be taken for a jump.

    Args:
        growth: ln(‖θ_{i+1}‖²/‖θ_i‖²), float64, shape (n,), NaN where unknown.
        delta: δ.

    Returns:
        The jumps.
    """
    least = -2 * math.log1p(-delta)
    level = _level(growth)
    edges = np.diff((growth > 0).astype(np.int8), prepend=0, append=0)
    rises = np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)
    high = rises[level[rises[:, 1]] - level[rises[:, 0]] >= least]
    found = []
    since = 0
    for first, end in high.tolist():
        if level[since : first + 1].max() - level[first] >= least / 2:
            found.append((first, end))
            since = end
    pairs = np.array(found, np.int64).reshape(-1, 2)
    rows = int((pairs[:, 1] - pairs[:, 0]).sum())
    return Jumps(pairs[:, 0], pairs[:, 1], "norm", rows / max(len(growth), 1))


@dataclass(frozen=True)
class Cycle:
    """From one jump to the next: up to the longest norm, then down to the shortest after it.

    Attributes:
        longest: Row of the longest norm.
        shortest: Row of the shortest norm from there to the next jump.
        decline: By how much ln‖θ‖² falls between them.
    """

    longest: int
    shortest: int
    decline: float


def cycles(jumps: Jumps, growth: Float) -> list[Cycle]:
    """The cycle that follows each jump but the last.

    Args:
        jumps: n jumps.
        growth: ln(‖θ_{i+1}‖²/‖θ_i‖²) of every row.

    Returns:
        n - 1 cycles.
    """
    level = _level(growth)
    found = []
    for first, following in zip(jumps.start[:-1], jumps.start[1:], strict=True):
        longest = int(first + np.argmax(level[first : following + 1]))
        shortest = int(longest + np.argmin(level[longest : following + 1]))
        found.append(Cycle(longest, shortest, float(level[longest] - level[shortest])))
    return found


def _level(growth: Float) -> Float:
    """ln‖θ_i‖² up to a constant, shape (n+1,), unknown growth taken as none."""
    return np.concatenate([[0.0], np.cumsum(np.nan_to_num(growth))])
