"""Reading every committed row of a stream once: are the bytes sound, are the values finite?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Container
from trajfile.holes import Hole, holes
from trajfile.report import Finding
from trajfile.rules import finding
from trajfile.schema import StreamSpec

#: Findings of damage a stream; the rest are counted in one more.
_MOST_DAMAGE = 10
_MOST_TENSORS = 20


def scan(container: Container, stream: str) -> Iterator[Finding]:
    """Read a stream whole, in blocks of bounded size.

    Args:
        container: Any container.
        stream: The stream.

    Yields:
        A finding for each damaged chunk, those of neighbouring rows in one, up to ten a stream
        and one for the rest; and one (USE-006) if values are not finite, naming the first step
        and tensor.
    """
    spec = container.manifest().by_name[stream]
    rows = container.committed_rows(stream)
    finite = _Finite(spec, rows)
    found = holes(container, stream, visit=finite.look)
    yield from damage(container, stream, found)
    if finite.first is not None:
        row, tensor = finite.first
        steps, _ = container.keys(stream)
        count = int(finite.spoilt.sum())
        yield finding(
            "USE-006",
            f"/streams/{stream}",
            f"{stream} is not finite in {count} of {rows} rows, first at step "
            f"{steps[row]} in {tensor!r}",
            step=int(steps[row]),
            tensor=tensor,
            rows=count,
        )


def damage(container: Container, stream: str, found: Iterable[Hole]) -> Iterator[Finding]:
    """Holes as findings, holes of neighbouring rows as one.

    Args:
        container: What was read.
        stream: The stream.
        found: Its holes, in the order of `holes`.

    Yields:
        Up to ten findings that name rows, steps, columns and tensors, and one for the rest.
    """
    shown, rest = 0, 0
    beyond: set[int] = set()
    rule = ""
    for run in _runs(found):
        if shown < _MOST_DAMAGE:
            shown += 1
            yield _damaged(container, run)
        else:
            rest += 1
            rule = rule or run[0].error.rule
            beyond.update(hole.row for hole in run)
    if rest:
        yield finding(
            rule,
            f"/streams/{stream}",
            f"{stream}: {rest} more places are damaged, in {len(beyond)} rows from row "
            f"{min(beyond)} to row {max(beyond)}",
            stream=stream,
            places=rest,
            row_count=len(beyond),
            rows=[min(beyond), max(beyond)],
        )


def _runs(found: Iterable[Hole]) -> Iterator[list[Hole]]:
    """Holes that differ by their row alone, as long as the rows follow one another."""

    def alike(numbered: tuple[int, Hole]) -> tuple[object, ...]:
        at, hole = numbered
        where = (hole.lane, hole.columns.start, hole.columns.stop)
        return (hole.row - at, *where, hole.tensors, hole.error.rule)

    for _, run in groupby(enumerate(found), alike):
        yield [hole for _, hole in run]


def _damaged(container: Container, run: list[Hole]) -> Finding:
    first, last = run[0], run[-1]
    steps, _ = container.keys(first.stream)
    ends = [int(steps[first.row]), int(steps[last.row])]
    at = first.columns
    where = f"/streams/{first.stream}/{first.lane}"
    rows = f"row {first.row} (step {ends[0]})"
    if len(run) > 1:
        rows = f"rows {first.row}–{last.row} (steps {ends[0]}–{ends[1]})"
    return finding(
        first.error.rule,
        where,
        f"{rows}, columns {at.start}–{at.stop - 1} ({named(first.tensors)}): {reason(first)}",
        stream=first.stream,
        lane=first.lane,
        rows=[first.row, last.row],
        steps=ends,
        columns=[at.start, at.stop - 1],
        tensors=list(first.tensors[:_MOST_TENSORS]),
        tensor_count=len(first.tensors),
    )


def reason(hole: Hole) -> str:
    """Why a hole is one, without the place and the remedy that the error names."""
    words = str(hole.error).partition(f"/{hole.lane}: ")[2] or str(hole.error)
    words = words.partition(".joined: ")[2] or words
    return words.partition("; restore")[0].removeprefix(f"in row {hole.row}, ")


def named(tensors: tuple[str, ...]) -> str:
    """Tensors in a sentence: a few by name, the others counted."""
    few = ", ".join(repr(name) for name in tensors[:3])
    return few + (f" and {len(tensors) - 3} more" if len(tensors) > 3 else "")


class _Finite:
    """Which rows hold a value that is not finite, and which tensor does first."""

    def __init__(self, spec: StreamSpec, rows: int):
        self.first: tuple[int, str] | None = None
        self.spoilt: NDArray[np.bool_] = np.zeros(rows, np.bool_)
        self._spec = spec

    def look(self, lane: str, rows: slice, columns: slice, block: Array) -> None:
        """Take a block into account."""
        if lane.startswith(("int", "uint")):
            return
        with np.errstate(invalid="ignore"):  # looking at a signalling NaN
            bad = ~np.isfinite(block)
        marks = bad.any(axis=1)
        if not marks.any():
            return
        self.spoilt[rows] |= marks
        row = int(np.argmax(marks))
        column = columns.start + int(np.argmax(bad[row]))
        tensor = next(
            t.name
            for t in self._spec.tensors
            if t.dtype == lane and t.offset <= column < t.columns.stop
        )
        found = (rows.start + row, tensor)
        self.first = found if self.first is None else min(self.first, found)
