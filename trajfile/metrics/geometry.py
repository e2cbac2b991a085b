"""Where the trajectory went: distance, length, and its principal plane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Inner, Need, Row, Timeline
from trajfile.metrics import robust
from trajfile.metrics.base import Metric, Skipped
from trajfile.metrics.late import joined_late, late_note
from trajfile.metrics.ranges import Several
from trajfile.metrics.rowwise import of_tensors, results, rows
from trajfile.metrics.snapshots import SNAPSHOTS, STEP
from trajfile.report import MetricResult, TensorResult, number, numbers, series_of
from trajfile.schema import PARAMS

Float = NDArray[np.float64]

#: The first and the last snapshot, for each tensor's own displacement.
_ENDS = Timeline((PARAMS,), limit=2)

_COMPONENTS = 10


@dataclass(frozen=True)
class Geometry(Metric):
    """Distance from initialisation, path length and PCA of the trajectory.

    Attributes:
        pca_rows: Most snapshots that enter the PCA, spread evenly over the run.
    """

    pca_rows: Several = 64

    id: ClassVar[str] = "geometry"
    title: ClassVar[str] = "shape of the trajectory"
    definition: ClassVar[str] = (
        "Distance from initialisation ‖θ_k − θ_0‖; path length Σ_{j<k} ‖θ_{j+1} − θ_j‖ over the "
        "recorded snapshots; PCA: with X the centred snapshots as rows, the Gram matrix XXᵀ = "
        "VΛVᵀ gives component c the coordinates √λ_c V_c and the share λ_c/Σλ of the variance. A "
        "random walk has such shares too: the c-th goes as 1/c², the first is 6/π² = 61%. "
        "random_walk_explained are those of a walk with this run's step lengths and no preferred "
        "direction: only what exceeds them says something of the run."
    )
    reference: ClassVar[str] = (
        "elementary; PCA of trajectories: Li et al., arXiv 1712.09913; of random walks: Antognini "
        "and Sohl-Dickstein, PCA of high dimensional random walks, arXiv 1806.08805"
    )
    ingredients: ClassVar[str] = "params"

    def needs(self, header: Header) -> frozenset[Need] | Skipped:
        """Norms of displacements, and a Gram matrix of at most `pca_rows` snapshots."""
        if not header.has(PARAMS):
            return Skipped("The trajectory's shape needs params.", PARAMS)
        first = _start(header)
        cloud = self._cloud(first)
        settled = (
            {Inner(STEP, _from(first, SNAPSHOTS), (0, 1, 2))} if joined_late(header) else set()
        )
        lags = range(len(header.timeline_steps(cloud.timeline)))
        return frozenset(
            {
                Inner(STEP, STEP, per_tensor=True),
                Inner(STEP, STEP, (1,)),
                Inner(_from(first, SNAPSHOTS), _from(first, SNAPSHOTS)),
                Inner(_from(first, _ENDS), _from(first, _ENDS), per_tensor=True),
                Inner(cloud, cloud, tuple(lags)),
            }
            | settled
        )

    def compute(self, measured: Measurements) -> MetricResult:
        """Distances, lengths and principal components."""
        header = measured.header
        steps = header.steps[PARAMS]
        first = _start(header)
        offset = _from(first, SNAPSHOTS)
        away = np.sqrt(measured.inner(offset, offset))
        squared, turns = _steps(measured, first)
        moves = np.sqrt(squared)
        length = np.concatenate([[0.0], np.cumsum(moves)])
        coarse = _every_other(moves, turns)
        stride = int(np.diff(steps).max(initial=1))
        at, axes, share = self._components(measured, first)
        walk = _random_walk(steps, squared, at) if len(share) else share
        distance, path = robust.last(away), robust.last(length)
        straightness = distance / path if path > 0 else None
        notes = late_note(
            header,
            "they are left out of all figures of the whole, which have no start to count from.",
        )
        if stride > 1:
            notes.append(
                f"Snapshots lie up to {stride} steps apart: the path length is that of the chords "
                "between them, which is less than the path's."
            )
        if len(share):
            notes.append(
                f"PCA over {len(at)} of {len(steps)} snapshots; the sign of a component is chosen "
                "such that it ends no lower than it starts."
            )
            notes.append(
                "Shares of the variance mean something only beside random_walk_explained, those of "
                f"a random walk with the same step lengths: {walk[0]:.0%} for the first component."
            )
        if not measured.per_tensor_kept:
            notes.append("Per-tensor distances were left out to stay within the memory budget.")
        enough = np.isfinite(away).sum() > 1
        return MetricResult(
            "ok" if enough else "insufficient",
            None
            if enough
            else "A trajectory's shape needs two snapshots or more at a finite distance from the "
            f"first; found {int(np.isfinite(away).sum())} of {len(steps)}.",
            summary={
                "explained_variance": [float(x) for x in share[:_COMPONENTS]],
                "random_walk_explained": [float(x) for x in walk[:_COMPONENTS]],
                "distance_last": number(distance),
                "path_length_last": number(path),
                "path_length_every_other": number(coarse),
                "path_stride": stride,
                "straightness": number(straightness),
            },
            series={
                **series_of(steps, {"distance_from_init": away, "path_length": length}),
                **series_of(at, {"pca_1": axes[0], "pca_2": axes[1]}),
            },
            per_tensor=self._per_tensor(measured, first),
            definition=self.definition,
            reference=self.reference,
            notes=notes,
            sentence=_sentence(distance, path, share, walk),
            salience=0.2 if path > 0 else 0.0,
            options=self.options,
        )

    def _cloud(self, first: int) -> Row:
        """The snapshots that enter the PCA, as offsets so that centring them does not cancel."""
        return _from(first, Timeline((PARAMS,), limit=self.pca_rows))

    def _components(
        self, measured: Measurements, first: int
    ) -> tuple[NDArray[np.int64], tuple[Float, Float], Float]:
        """Steps and first two coordinates of the finite rows, and all shares of the variance."""
        cloud = self._cloud(first)
        steps = measured.header.timeline_steps(cloud.timeline)
        band = measured.band(cloud, cloud)
        gram = np.zeros((len(steps), len(steps)))
        i, j = np.triu_indices(len(steps))
        gram[i, j] = gram[j, i] = band.total[i, np.searchsorted(band.lags, j - i)]
        sound = np.isfinite(np.diagonal(gram))
        steps, gram = steps[sound], gram[np.ix_(sound, sound)]
        nothing = np.full(len(steps), np.nan)
        if len(steps) < 2:
            return steps, (nothing, nothing), nothing[:0]
        middle = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
        values, vectors = np.linalg.eigh(middle)
        values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
        if values[0] == 0:
            return steps, (nothing, nothing), nothing[:0]
        axes = vectors * np.sqrt(values)
        axes = np.where(axes[-1] < axes[0], -axes, axes)
        return steps, (axes[:, 0], axes[:, 1]), values[:-1] / values.sum()

    def _per_tensor(self, measured: Measurements, first: int) -> dict[str, TensorResult]:
        offset = _from(first, _ENDS)
        names, ends = of_tensors(measured, offset, offset)
        names, squared = of_tensors(measured, STEP, STEP, names)
        distance = np.sqrt(ends[:, -1])
        path = np.sqrt(rows(squared).values).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            straight = np.where(path != 0, distance / path, np.nan)
        return results(
            names,
            {
                "distance_last": numbers(distance),
                "path_length_last": path.tolist(),
                "straightness": numbers(straight),
            },
        )


def _start(header: Header) -> int:
    """The step that distances are counted from: that of the first selected tensor to exist."""
    late = joined_late(header)
    first = int(header.steps[PARAMS][0])
    return min(late.values()) if late and len(late) == len(header.tensors[PARAMS]) else first


def _steps(measured: Measurements, first: int) -> tuple[Float, Float]:
    """‖s_i‖², shape (n - 1,), and ⟨s_i, s_{i+1}⟩, shape (n,), of tensors there from the start."""
    # Products with o_i = θ_i - θ_first leave out those that joined late. That ‖s_i‖² is now a
    # difference, ⟨s_i, o_{i+1}⟩ - ⟨s_i, o_i⟩, costs it ‖o_i‖/‖s_i‖ roundings of the pass.
    if not joined_late(measured.header):
        return measured.inner(STEP, STEP)[:-1], measured.inner(STEP, STEP, 1)
    offset = _from(first, SNAPSHOTS)
    here, after, beyond = (measured.inner(STEP, offset, lag) for lag in range(3))
    return np.maximum(after - here, 0.0)[:-1], beyond - after


def _from(first: int, timeline: Timeline) -> Row:
    """θ_i − θ_first."""
    return Row(PARAMS, timeline, "offset", first)


def _every_other(moves: Float, turns: Float) -> float:
    """Path length with every second snapshot left out; NaN with fewer than three.

    Args:
        moves: ‖s_i‖, shape (n - 1,).
        turns: ⟨s_i, s_{i+1}⟩, shape (n,).

    Returns:
        Σ ‖s_{2i} + s_{2i+1}‖, and the last displacement where their number is odd.
    """
    if len(moves) < 2:
        return float("nan")
    pairs = len(moves) // 2 * 2
    left, right = moves[:pairs:2], moves[1:pairs:2]
    chords = np.sqrt(np.maximum(left**2 + right**2 + 2 * turns[:pairs:2], 0.0))
    return float(robust.finite(chords).sum() + robust.finite(moves[pairs:]).sum())


def _random_walk(steps: NDArray[np.int64], squared: Float, at: NDArray[np.int64]) -> Float:
    """Shares of the variance along the components of a walk without preferred direction.

    In many dimensions its steps are all at right angles, so ⟨θ_i, θ_j⟩ about the start is the sum
    of the squared lengths of the steps that both have made.

    Args:
        steps: Steps of all snapshots, shape (n,).
        squared: ‖s_i‖², shape (n - 1,).
        at: Steps of the snapshots that entered the PCA, shape (m,).

    Returns:
        Falling shares, shape (m - 1,). With equal lengths the c-th is in proportion to
        1/sin²(πc/2m).
    """
    # A step next to a snapshot that is not finite has no length: it counts as one like others.
    typical = robust.median(squared)
    known = np.where(np.isfinite(squared), squared, typical if typical > 0 else 1.0)
    made = np.concatenate([[0.0], np.cumsum(known)])
    made = made[np.searchsorted(steps, at)]
    gram = np.minimum(made[:, None], made[None, :])
    middle = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    values = np.maximum(np.linalg.eigvalsh(middle)[::-1], 0.0)
    return np.asarray(values[:-1] / values.sum(), np.float64)


def _sentence(distance: float, path: float, share: Float, walk: Float) -> str | None:
    if not path > 0:
        return None
    plane = (
        f"; two directions hold {share[:2].sum():.0%} of its variance, where a random walk's hold "
        f"{walk[:2].sum():.0%}"
        if len(share) > 1
        else ""
    )
    return (
        f"The trajectory ended {distance:.4g} from where it started, after a path of "
        f"{path:.4g}{plane}."
    )
