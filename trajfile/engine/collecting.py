"""Keeping what the matrix kernels will want of a tile, or of a piece of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.columns import Piece, Region
from trajfile.engine.lanes import Tile
from trajfile.engine.matrices import Collector
from trajfile.engine.rows import Index
from trajfile.engine.staging import Part


class Wanted(NamedTuple):
    """Columns of which rows are kept.

    Attributes:
        part: The part of a tile that has them.
        piece: Whose they are.
        start: The first, counted from the strip's.
        stop: The one after the last.
    """

    part: Part
    piece: Piece
    start: int
    stop: int


def wanted(
    collector: Collector, tile: Tile, region: Region, columns: tuple[int, int]
) -> Iterator[Wanted]:
    """What is to be kept of some columns.

    Args:
        collector: Keeps it.
        tile: The tile.
        region: A region of its strip.
        columns: Columns of the region.

    Yields:
        The columns of each tensor in each part.
    """
    for part in tile.parts:
        for piece in region.between(*columns):
            a = max(piece.start, part.run.start, columns[0])
            b = min(piece.stop, part.run.stop, columns[1])
            if a < b and collector.wants(part.stream, piece.tensor):
                yield Wanted(part, piece, a, b)


def collect(
    collector: Collector,
    some: Iterable[Wanted],
    values: NDArray[np.generic],
    first: int,
    positions: Index,
    rows: Index,
) -> None:
    """Keep rows; threads may keep others, or other columns, at the same time.

    Args:
        collector: Keeps them.
        some: Which columns, of one stream.
        values: Where rows lie, shape (rows, columns), in the recorded dtype.
        first: Their first column, counted from the strip's.
        positions: Positions of the rows that may be wanted.
        rows: Where in `values` each of them is.
    """
    for part, piece, start, stop in some:
        collector.gather(
            part.stream,
            piece.tensor,
            piece.element + start - piece.start,
            positions,
            rows,
            values[:, start - first : stop - first],
        )
