"""Where committed rows cannot be read: which chunk, hence which rows, columns and tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Container
from trajfile.dtypes import numpy_dtype
from trajfile.errors import FormatError
from trajfile.schema import StreamSpec

_BLOCK_BYTES = 16 * 2**20
# Beyond so many holes the tensors of a chunk are no longer tried one by one.
_MOST_PROBED = 64

Visit = Callable[[str, slice, slice, Array], None]


@dataclass(frozen=True)
class Hole:
    """Columns of one row that cannot be read.

    Attributes:
        stream: The stream.
        lane: The lane, by its dtype.
        row: The row.
        columns: The columns, within one chunk.
        tensors: The tensors that have columns there.
        error: Why.
    """

    stream: str
    lane: str
    row: int
    columns: slice
    tensors: tuple[str, ...]
    error: FormatError


def holes(
    container: Container,
    stream: str,
    rows: NDArray[np.int64] | None = None,
    tensors: Collection[str] | None = None,
    visit: Visit | None = None,
) -> Iterator[Hole]:
    """Read committed rows of a stream once, in blocks of bounded size, and find what is damaged.

    Args:
        container: Any container.
        stream: The stream.
        rows: Which rows, increasing; all by default.
        tensors: Which tensors; all by default.
        visit: Called with the lane, rows, columns and values of each block that could be read.

    Yields:
        Each hole, lane by lane, by columns and then by rows.
    """
    spec = container.manifest().by_name[stream]
    if rows is None:
        rows = np.arange(container.committed_rows(stream))
    if not len(rows):
        return
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    probe = _Probe(container, spec)
    for lane, width in spec.lanes.items():
        wanted = _wanted(spec, lane, tensors)
        for columns in _cut(0, width, container.chunk_columns(stream, lane)):
            if not any(a < columns.stop and columns.start < b for a, b in wanted):
                continue
            count = max(1, _BLOCK_BYTES // max(1, (columns.stop - columns.start) * 8))
            for run in runs:
                for block in _cut(int(run[0]), int(run[-1]) + 1, count):
                    yield from probe.look(lane, block, columns, tensors, visit)


class _Probe:
    def __init__(self, container: Container, spec: StreamSpec):
        self._container = container
        self._spec = spec
        self._found = 0

    def look(
        self,
        lane: str,
        rows: slice,
        columns: slice,
        tensors: Collection[str] | None,
        visit: Visit | None,
    ) -> Iterator[Hole]:
        """A block, or where it is damaged its halves, and theirs, down to single rows."""
        block = np.empty((rows.stop - rows.start, columns.stop - columns.start), numpy_dtype(lane))
        try:
            self._container.read(self._spec.name, lane, rows, columns, block)
        except FormatError as error:
            if len(block) > 1:
                middle = (rows.start + rows.stop) // 2
                for half in (slice(rows.start, middle), slice(middle, rows.stop)):
                    yield from self.look(lane, half, columns, tensors, visit)
                return
            hole = self._hole(lane, rows.start, columns, error)
            if tensors is None or not set(tensors).isdisjoint(hole.tensors):
                yield hole
        else:
            if visit is not None:
                visit(lane, rows, columns, block)

    def _hole(self, lane: str, row: int, columns: slice, error: FormatError) -> Hole:
        """Narrow a damaged part of a row to the tensors that are damaged in it."""
        self._found += 1
        parts = {
            t.name: slice(max(t.offset, columns.start), min(t.columns.stop, columns.stop))
            for t in self._spec.tensors
            if t.dtype == lane and t.offset < columns.stop and columns.start < t.columns.stop
        }
        bad = list(parts) if self._found > _MOST_PROBED else self._unreadable(lane, row, parts)
        if bad:
            columns = slice(parts[bad[0]].start, parts[bad[-1]].stop)
        return Hole(self._spec.name, lane, row, columns, tuple(bad), error)

    def _unreadable(self, lane: str, row: int, parts: dict[str, slice]) -> list[str]:
        bad = []
        for name, part in parts.items():
            block = np.empty((1, part.stop - part.start), numpy_dtype(lane))
            try:
                self._container.read(self._spec.name, lane, slice(row, row + 1), part, block)
            except FormatError:
                bad.append(name)
        return bad


def _wanted(spec: StreamSpec, lane: str, tensors: Collection[str] | None) -> list[tuple[int, int]]:
    return [
        (t.offset, t.columns.stop)
        for t in spec.tensors
        if t.dtype == lane and (tensors is None or t.name in tensors)
    ]


def _cut(start: int, stop: int, width: int) -> list[slice]:
    return [slice(a, min(a + width, stop)) for a in range(start, stop, width)]
