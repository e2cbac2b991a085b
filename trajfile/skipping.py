"""Analysing a run in spite of damage: which rows cannot be read, and leaving them out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.errors import Damaged
from trajfile.holes import Hole, holes
from trajfile.reader import Trajectory
from trajfile.report import Finding
from trajfile.scan import named, reason

_MOST_RANGES = 5
_MOST_TENSORS = 20


@dataclass(frozen=True)
class LeftOut:
    """Rows of one stream that an analysis does without.

    Attributes:
        stream: The stream.
        steps: Their steps, int64, each once.
        of: How many steps were selected.
        ranges: The same steps as (first, last) of selected steps that follow one another.
        tensors: The damaged tensors, of those that were selected.
    """

    stream: str
    steps: NDArray[np.int64]
    of: int
    ranges: tuple[tuple[int, int], ...]
    tensors: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """What is left out, in words."""
        at = ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in self.ranges[:_MOST_RANGES])
        if len(self.ranges) > _MOST_RANGES:
            at += f" and {len(self.ranges) - _MOST_RANGES} more places"
        one = len(self.steps) == 1
        return (
            f"{len(self.steps)} of {self.of} recorded steps of {self.stream} "
            f"{'is' if one else 'are'} damaged and left out ({'step' if one else 'steps'} {at}; "
            f"{named(self.tensors)})"
        )

    @property
    def finding(self) -> Finding:
        """The same for a report."""
        return Finding(
            f"damage.{self.stream}",
            "warn",
            f"{self.sentence}.",
            {
                "stream": self.stream,
                "steps": len(self.steps),
                "of": self.of,
                "step_ranges": [list(ends) for ends in self.ranges],
                "tensors": list(self.tensors[:_MOST_TENSORS]),
                "tensor_count": len(self.tensors),
            },
        )


def look(trajectory: Trajectory, header: Header) -> list[LeftOut]:
    """Read the selected rows once to find those that cannot be read.

    Args:
        trajectory: The run.
        header: What is selected of it.

    Returns:
        What to leave out, a stream each.
    """
    found = []
    for stream, steps in header.steps.items():
        unique = np.unique(steps)
        recorded = trajectory.steps(stream)
        bad = list(_holes(trajectory, header, stream))
        if bad:
            out = np.unique(recorded[[hole.row for hole in bad]])
            # In the order of the table, each once.
            tensors = {name: None for hole in bad for name in hole.tensors}
            chosen = tuple(name for name in header.tensors[stream] if name in tensors)
            found.append(LeftOut(stream, out, len(unique), _ranges(unique, out), chosen))
    return found


def leave_out(header: Header, left: Iterable[LeftOut]) -> Header:
    """The selection without the damaged rows.

    Args:
        header: What was selected.
        left: What to leave out; of gradient samples, all samples of a step.

    Returns:
        The selection, which says what was left out.
    """
    steps, words = dict(header.steps), dict(header.left_out)
    for out in left:
        steps[out.stream] = steps[out.stream][~np.isin(steps[out.stream], out.steps)]
        words[out.stream] = out.sentence
    return replace(header, steps=steps, left_out=words)


def without(header: Header, findings: Iterable[Finding]) -> Header:
    """The selection without the rows that a report says were left out."""
    steps = dict(header.steps)
    for finding in findings:
        if finding.id.startswith("damage."):
            stream = finding.evidence["stream"]
            for first, last in finding.evidence["step_ranges"]:
                inside = (steps[stream] >= first) & (steps[stream] <= last)
                steps[stream] = steps[stream][~inside]
    return replace(header, steps=steps)


@contextmanager
def located(trajectory: Trajectory, header: Header) -> Iterator[None]:
    """Tell an error of reading rows with its place and with what can be done.

    Args:
        trajectory: The run that is read.
        header: What is selected of it.

    Yields:
        Nothing.

    Raises:
        Damaged: If a row of the run is damaged.
    """
    try:
        yield
    except Damaged as error:
        streams = header.steps
        found = (hole for stream in streams for hole in _holes(trajectory, header, stream))
        hole = next(found, None)
        if hole is None:
            raise
        step = trajectory.steps(hole.stream)[hole.row]
        raise Damaged(
            f"{trajectory.path}: {hole.stream} is damaged at step {step} (row {hole.row}, columns "
            f"{hole.columns.start}–{hole.columns.stop - 1} of {hole.lane}, "
            f"{named(hole.tensors)}): {reason(hole)}. `--skip-damaged` (skip_damaged=True) leaves "
            "damaged rows out; `trajfile repair` writes a file of what is whole",
            path=trajectory.path,
            location=hole.error.location,
            rule=hole.error.rule,
        ) from error


def _holes(trajectory: Trajectory, header: Header, stream: str) -> Iterable[Hole]:
    rows = trajectory.row_index(stream, np.unique(header.steps[stream]))
    return holes(trajectory.container, stream, rows, header.tensors.get(stream, {}))


def _ranges(steps: NDArray[np.int64], out: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Steps that are out as ranges of neighbours among the steps."""
    places = np.searchsorted(steps, out)
    runs = groupby(enumerate(places), lambda pair: int(pair[1]) - pair[0])
    ends = [[int(place) for _, place in run] for _, run in runs]
    return tuple((int(steps[run[0]]), int(steps[run[-1]])) for run in ends)
