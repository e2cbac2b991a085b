"""Where the update U_k in θ_{k+1} = θ_k - η_k U_k comes from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.needs import Row, Timeline
from trajfile.metrics.snapshots import SNAPSHOTS, STEP, strides


@dataclass(frozen=True)
class UpdateSource:
    """Rows whose multiples are the updates, with the distance of their snapshots from θ*.

    Attributes:
        row: Recorded updates, or differences of consecutive snapshots.
        distance: θ_k - θ* on the same timeline.
        steps: The timeline's steps, int64, shape (n,).
        scale: Factor from row to update, float64, shape (n,): 1 for recorded updates,
            -1/(η_k s) for the displacement over s steps; NaN where η is unknown or zero.
        adjacent: Whether the row's update is of one step and leads to the next row, if there is
            a next row, shape (n,).
        recorded: Whether the updates were recorded.
        notes: What applies of the above, one sentence each.
    """

    row: Row
    distance: Row
    steps: NDArray[np.int64]
    scale: NDArray[np.float64]
    adjacent: NDArray[np.bool_]
    recorded: bool
    notes: tuple[str, ...]

    @property
    def count(self) -> int:
        """Rows that have an update: after the last snapshot there is no displacement."""
        return len(self.steps) if self.recorded else max(len(self.steps) - 1, 0)

    @property
    def caveat(self) -> str | None:
        """What must be said beside every figure that rests on these updates, or None."""
        strided = not self.recorded and (strides(self.steps) > 1).any()
        return "U over strides" if strided else None

    @property
    def sign(self) -> int:
        """Of the factor from row to update."""
        return 1 if self.recorded else -1


def find_source(header: Header, reference: int) -> UpdateSource:
    """Recorded updates if there are any beside snapshots, else displacements.

    Args:
        header: Of a run with params.
        reference: The step of θ*, at which a snapshot is recorded.

    Returns:
        The source.
    """
    timeline = Timeline(("params", "updates"))
    recorded = len(header.timeline_steps(timeline)) > 0 and header.has("updates")
    timeline = timeline if recorded else SNAPSHOTS
    steps = header.timeline_steps(timeline)
    distance = Row("params", timeline, "offset", reference)
    stride = strides(steps)
    if recorded:
        return UpdateSource(
            Row("updates", timeline),
            distance,
            steps,
            np.ones(len(steps)),
            (stride == 1) | np.isnan(stride),
            True,
            (),
        )
    rate = header.learning_rate_at(steps)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(rate > 0, -1 / (rate * stride), np.nan)
    notes = ["Updates were not recorded; U_k is (θ_k - θ_{k+1})/η_k of the snapshots."]
    if len(steps) > 1 and np.nanmax(stride) > 1:
        notes.append(
            f"Snapshots are up to {int(np.nanmax(stride))} steps apart; there U_k is the mean "
            "update over the stride, at the learning rate of its first step."
        )
    if not np.isfinite(rate).any():
        notes.append(
            "The learning rate was not recorded either (scalar learning_rate), so only "
            "directions are known: no γ, no inner products."
        )
    return UpdateSource(STEP, distance, steps, scale, stride == 1, False, tuple(notes))
