"""Cutting a block of a lane into pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

#: What a piece may hold in bytes, unless a single chunk is larger.
PIECE_BYTES = 16 * 2**20


class Piece(NamedTuple):
    """Contiguous rows and columns."""

    rows: slice
    columns: slice


def pieces(rows: slice, columns: slice, unit: int, item: int, height: int = 1) -> Iterator[Piece]:
    """Pieces that follow one another as the elements do in memory, in row-major order.

    Args:
        rows: Contiguous rows.
        columns: Contiguous columns of a lane.
        unit: Width of a chunk of the lane; long rows are cut between chunks.
        item: Bytes of an element.
        height: Rows that are not to be parted, from the first row on; with more than one the
            order is row-major only between such bands.

    Yields:
        Several whole rows each, or parts of one row (one band) if it is large.
    """
    width = columns.stop - columns.start
    bands = PIECE_BYTES // max(1, width * item * height)
    if bands:
        for row in range(rows.start, rows.stop, bands * height):
            yield Piece(slice(row, min(row + bands * height, rows.stop)), columns)
        return
    across = max(1, PIECE_BYTES // (item * unit * height)) * unit
    for row in range(rows.start, rows.stop, height):
        start = columns.start
        while start < columns.stop:
            stop = min((start // across + 1) * across, columns.stop)
            yield Piece(slice(row, min(row + height, rows.stop)), slice(start, stop))
            start = stop
