"""Reading every committed row of a stream once: are the bytes sound, are the values finite?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Container
from trajfile.dtypes import numpy_dtype
from trajfile.errors import FormatError
from trajfile.report import Finding
from trajfile.rules import broken, finding
from trajfile.schema import StreamSpec

_BLOCK_BYTES = 16 * 2**20
_MOST_DAMAGE = 10


def scan(container: Container, stream: str) -> Iterator[Finding]:
    """Read a stream whole, in blocks of bounded size.

    Args:
        container: Any container.
        stream: The stream.

    Yields:
        A finding for each damaged row of a lane, up to ten a lane, and one (USE-006) if values are
        not finite, naming the first step and tensor.
    """
    spec = container.manifest().by_name[stream]
    rows = container.committed_rows(stream)
    first: tuple[int, str] | None = None
    spoilt: NDArray[np.bool_] = np.zeros(rows, np.bool_)
    for lane, width in spec.lanes.items():
        damaged: set[int] = set()
        inexact = not lane.startswith(("int", "uint"))
        for columns in _cut(width, container.chunk_columns(stream, lane)):
            step = max(1, _BLOCK_BYTES // max(1, (columns.stop - columns.start) * 8))
            for block_rows in _cut(rows, step):
                for got, block in _read(container, stream, lane, block_rows, columns):
                    if isinstance(block, FormatError):
                        if got.start not in damaged and len(damaged) < _MOST_DAMAGE:
                            damaged.add(got.start)
                            yield broken(block)
                    elif inexact:
                        found = _first_bad(spec, lane, got, columns, block, spoilt)
                        first = min(filter(None, (first, found)), default=None)
    if first is not None:
        row, tensor = first
        steps, _ = container.keys(stream)
        yield finding(
            "USE-006",
            f"/streams/{stream}",
            f"{stream} is not finite in {int(spoilt.sum())} of {rows} rows, first at step "
            f"{steps[row]} in {tensor!r}",
            step=int(steps[row]),
            tensor=tensor,
            rows=int(spoilt.sum()),
        )


def _read(
    container: Container, stream: str, lane: str, rows: slice, columns: slice
) -> Iterator[tuple[slice, Array | FormatError]]:
    """A block, or where it is damaged its rows one by one, the damaged ones as their error."""
    block = np.empty((rows.stop - rows.start, columns.stop - columns.start), numpy_dtype(lane))
    try:
        container.read(stream, lane, rows, columns, block)
    except FormatError as error:
        if len(block) == 1:
            yield rows, error
            return
        for row in range(rows.start, rows.stop):
            yield from _read(container, stream, lane, slice(row, row + 1), columns)
    else:
        yield rows, block


def _first_bad(
    spec: StreamSpec,
    lane: str,
    rows: slice,
    columns: slice,
    block: Array,
    spoilt: NDArray[np.bool_],
) -> tuple[int, str] | None:
    """Mark rows that are not finite; the first of them and the tensor."""
    bad = ~np.isfinite(block)
    marks = bad.any(axis=1)
    if not marks.any():
        return None
    spoilt[rows] |= marks
    row = int(np.argmax(marks))
    column = columns.start + int(np.argmax(bad[row]))
    tensor = next(
        t.name for t in spec.tensors if t.dtype == lane and t.offset <= column < t.columns.stop
    )
    return rows.start + row, tensor


def _cut(length: int, width: int) -> list[slice]:
    return [slice(a, min(a + width, length)) for a in range(0, length, width)]
