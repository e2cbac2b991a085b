"""Which columns of a lane exist in which of its rows."""

from __future__ import annotations

from typing import NamedTuple

from trajfile.schema import StreamSpec


class Run(NamedTuple):
    """Rows ``first`` to ``last`` - 1 in which exactly the first ``columns`` exist."""

    first: int
    last: int
    columns: int


def extents(spec: StreamSpec, lane: str, rows: slice) -> list[Run]:
    """Which columns of a lane exist in which of the rows; lanes only ever widen.

    Args:
        spec: The stream.
        lane: The lane.
        rows: Contiguous rows.

    Returns:
        Runs of rows in order that together are ``rows``.
    """
    ends: dict[int, int] = {0: 0}
    for tensor in spec.tensors:
        if tensor.dtype == lane:
            ends[tensor.first_row] = tensor.columns.stop
    starts = sorted(ends)
    runs = []
    for start, stop in zip(starts, [*starts[1:], rows.stop], strict=True):
        first, last = max(start, rows.start), min(max(stop, start), rows.stop)
        if first < last:
            runs.append(Run(first, last, ends[start]))
    return runs
