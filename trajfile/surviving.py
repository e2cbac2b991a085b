"""Which rows of a damaged run survived: those that are proven, and whole in every tensor."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.salvage import Salvaged
from trajfile.holes import holes
from trajfile.repaired import LostRows, StreamRepair
from trajfile.scan import reason

_ARRAY_LOST = "the array cannot be read"
_KEY_LOST = "its step is not proven"

Reasons = dict[int, tuple[str, tuple[str, ...]]]


def surviving(found: Salvaged, stream: str) -> tuple[NDArray[np.bool_], StreamRepair]:
    """Which rows of a stream survived.

    Args:
        found: What can be read of the run.
        stream: The stream.

    Returns:
        For each committed row whether it is proven and whole, and what became of the stream.
    """
    proven = found.proven(stream)
    steps, _ = found.keys(stream)
    keep = proven.copy()
    reasons: Reasons = {}
    lanes = found.manifest().by_name[stream].lanes
    gone = [lane for lane in lanes if (stream, lane) in found.lanes_lost]
    if gone:
        why = f"{_ARRAY_LOST} ({gone[0]})"
        reasons = {int(row): (why, ()) for row in np.flatnonzero(keep)}
        keep[:] = False
    else:
        for hole in holes(found, stream, np.flatnonzero(proven)):
            before = reasons.get(hole.row, ("", ()))[1]
            reasons[hole.row] = (reason(hole), tuple(dict.fromkeys([*before, *hole.tensors])))
            keep[hole.row] = False
    reasons |= {int(row): (_KEY_LOST, ()) for row in np.flatnonzero(~proven)}
    lost = tuple(_runs(reasons, steps))
    return keep, StreamRepair(stream, len(keep), int(keep.sum()), lost)


def surviving_scalars(found: Salvaged) -> StreamRepair:
    """What became of the scalars."""
    proven = found.scalars_proven
    reasons: Reasons = {
        int(row): ("the checksum in the commit record does not hold", ())
        for row in np.flatnonzero(~proven)
    }
    steps = np.full(len(proven), -1, np.int64)
    return StreamRepair("scalars", len(proven), int(proven.sum()), tuple(_runs(reasons, steps)))


def _runs(reasons: Reasons, steps: NDArray[np.int64]) -> Iterator[LostRows]:
    """Lost rows that follow one another and were lost alike, together."""
    run: list[int] = []
    for row in [*sorted(reasons), -1]:
        if run and (row != run[-1] + 1 or reasons[row] != reasons[run[0]]):
            at = [int(step) for step in steps[run] if step >= 0]
            why, tensors = reasons[run[0]]
            ends = (min(at), max(at)) if at else None
            yield LostRows(why, (run[0], run[-1]), ends, tensors)
            run = []
        run.append(row)
