"""Finding jumps in a trajectory of scale-invariant tensors.

A δ-jump is a step with 1 - cos(θ_t, θ_{t+1}) > δ. Since the step is at right angles to θ, it makes
θ longer: by a factor of 1/(1-δ) or more. Where snapshots are too far apart for the cosine of a
single step, that rise of the norm betrays it (and shows jumps made of several steps below δ, too).
A rise that the decay of the rest of the stride hides is a jump if the loss spikes within the same
stride; and single steps that were recorded, in bursts, are seen as such wherever they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trajfile.linalg import turn
from trajfile.metrics.robust import finite, median

Float = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


#: Six standard deviations of normal values, in their median absolute deviations.
_BEYOND = 6 * 1.4826


#: Part of the single steps recorded in bursts above which turning is no event.
_ALWAYS = 0.5


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


@dataclass(frozen=True)
class Signs:
    """What a recording shows from each snapshot to the next, float64, shape (n-1,), NaN if unknown.

    Attributes:
        steps: Steps of the snapshots, int64, shape (n,) with n >= 2.
        distance: 1 - cos(θ_i, θ_{i+1}).
        growth: ln(‖θ_{i+1}‖²/‖θ_i‖²).
        kicked: The same without what weight decay takes in between, where its law is known.
        loss_factor: Largest loss within the stride over the median of those before; -inf where no
            loss is known.
    """

    steps: Index
    distance: Float
    growth: Float
    kicked: Float
    loss_factor: Float


def moves(square: Float, across: Float, moved: Float) -> tuple[Float, Float]:
    """1 - cos(θ_i, θ_{i+1}) and ln(‖θ_{i+1}‖²/‖θ_i‖²), each of shape (n, snapshots - 1).

    Args:
        square: ‖θ_i‖² of n vectors, float64, shape (n, snapshots).
        across: ⟨θ_i, θ_{i+1} - θ_i⟩, likewise.
        moved: ‖θ_{i+1} - θ_i‖², likewise.

    Returns:
        Both, NaN where unknown.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.log1p((2 * across + moved) / square)[:, :-1]
    growth = np.where(np.isfinite(growth), growth, np.nan)
    return turn(square, across, moved)[1][:, :-1], growth


def find_jumps(signs: Signs, delta: float, refractory: int, cover: float, spike: float) -> Jumps:
    """Jumps by single steps if nearly all of them are recorded, else by the norm and the loss.

    Args:
        signs: What was recorded.
        delta: δ.
        refractory: As in `jumps_by_cosine`.
        cover: Part of all steps from the first to the last whose cosine must be known.
        spike: Factor from which on a loss is a spike.

    Returns:
        The jumps.
    """
    steps = signs.steps
    single = np.where(np.diff(steps) == 1, signs.distance, np.nan)
    if np.isfinite(single).sum() >= cover * (steps[-1] - steps[0]):
        return jumps_by_cosine(single, delta, refractory)
    by_norm = jumps_by_norm(signs.growth, delta)
    # The first steps from initialisation turn θ by a lot, and so does, at times, every step.
    single = np.where(steps[:-1] < steps[0] + refractory, np.nan, single)
    seen = jumps_by_cosine(single, delta, refractory)
    if seen.turning > _ALWAYS:
        seen = Jumps(seen.start[:0], seen.end[:0], "cosine", seen.turning)
    hidden = _hidden(signs, delta, spike)
    pairs = sorted(
        (first, end, found is not by_norm)
        for found in (by_norm, seen, hidden)
        for first, end in zip(found.start.tolist(), found.end.tolist(), strict=True)
    )
    joined: list[tuple[int, int]] = []
    for first, end, close in pairs:
        # A single step or a hidden rise soon after another jump is part of it.
        reach = refractory if close else 0
        if joined and (first < joined[-1][1] or steps[first] < steps[joined[-1][1]] + reach):
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((first, end))
    rows = np.array(joined, np.int64).reshape(-1, 2)
    lasting = int((rows[:, 1] - rows[:, 0]).sum())
    return Jumps(rows[:, 0], rows[:, 1], "norm", lasting / max(len(signs.growth), 1))


def may_jump(
    steps: Index,
    distance: Float,
    growth: Float,
    kicked: Float,
    loss_factor: Float,
    *,
    delta: float,
    cover: float,
    spike: float,
) -> Mask:
    """Which of n vectors show anything that `find_jumps` could find; mostly few do.

    Args:
        steps: As in `Signs`, like those that follow.
        distance: Of each vector, shape (n, snapshots - 1).
        growth: Likewise.
        kicked: Likewise.
        loss_factor: Shape (snapshots - 1,).
        delta: As in `find_jumps`, like those that follow.
        cover: Likewise.
        spike: Likewise.

    Returns:
        Shape (n,).
    """
    single = np.diff(steps) == 1
    least = -2 * math.log1p(-delta)
    turned = ((distance > delta) & single).any(axis=1)
    # All rises of the norm together are no less than the largest of them.
    risen = np.where(growth > 0, growth, 0.0).sum(axis=1) > 0.99 * least
    hidden = ((loss_factor >= spike) & (kicked >= least)).any(axis=1)
    by_cosine = (np.isfinite(distance) & single).sum(axis=1) >= cover * (steps[-1] - steps[0])
    return np.asarray(turned | (~by_cosine & (risen | hidden)))


def _hidden(signs: Signs, delta: float, spike: float) -> Jumps:
    """Strides in which the loss spikes and updates lengthen θ as a δ-jump does, net of decay.

    The usual lengthening of a stride must lie well below that, for in a run that turns all the
    time every stride lengthens θ.

    Args:
        signs: What was recorded.
        delta: δ.
        spike: Factor from which on a loss is a spike.

    Returns:
        A jump per stride.
    """
    least = -2 * math.log1p(-delta)
    kicked = np.where(np.isfinite(signs.kicked), signs.kicked, -np.inf)
    known = kicked[np.isfinite(kicked)]
    usual = median(known) if len(known) else 0.0
    rows = np.flatnonzero((signs.loss_factor >= spike) & (kicked >= max(least, 3 * usual)))
    return Jumps(rows, rows + 1, "norm", 0.0)


def moments(signs: Signs, jumps: Jumps, delta: float) -> list[tuple[int, int]]:
    """Within which steps each jump begins.

    Args:
        signs: What was recorded.
        jumps: The jumps.
        delta: δ.

    Returns:
        First and last step of the update that begins it: the same one where a recorded single
        step shows it, else the snapshot before the jump and the last step before the next one.
    """
    steps = signs.steps
    sharp = (np.diff(steps) == 1) & (np.nan_to_num(signs.distance) > delta)
    found = []
    for first, end in zip(jumps.start.tolist(), jumps.end.tolist(), strict=True):
        seen = first + np.flatnonzero(sharp[first:end])
        row = int(seen[0]) if len(seen) else first
        found.append((int(steps[row]), int(steps[row + 1]) - 1))
    return found


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
    without that, a norm that grows from its initialisation would be taken for a jump. And it must
    be six robust standard deviations of a row's growth, beyond what a norm that wavers does.

    Args:
        growth: ln(‖θ_{i+1}‖²/‖θ_i‖²), float64, shape (n,), NaN where unknown.
        delta: δ.

    Returns:
        The jumps.
    """
    known = finite(growth)
    wavers = median(np.abs(known - median(known))) if len(known) else 0.0
    least = max(-2 * math.log1p(-delta), _BEYOND * wavers)
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
