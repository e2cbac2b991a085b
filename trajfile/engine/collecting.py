"""Keeping what the matrix kernels will want of a tile, or of a piece of one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.columns import Region
from trajfile.engine.lanes import Tile
from trajfile.engine.matrices import Collector
from trajfile.engine.staging import Part

#: The rows of a part as they lie in memory, and the column of the strip with which they begin.
Lying = Callable[[Part], tuple[NDArray[np.generic], int]]


def collect(
    collector: Collector, tile: Tile, region: Region, columns: tuple[int, int], lying: Lying
) -> None:
    """Keep what is wanted of some columns; threads may keep others' at the same time.

    Args:
        collector: Keeps it.
        tile: The tile.
        region: A region of its strip.
        columns: Columns of the region.
        lying: Where the rows of a part are found.
    """
    for part in tile.parts:
        for piece in region.between(*columns):
            a = max(piece.start, part.run.start, columns[0])
            b = min(piece.stop, part.run.stop, columns[1])
            if a < b and collector.wants(part.stream, piece.tensor):
                rows, first = lying(part)
                collector.gather(
                    part.stream,
                    piece.tensor,
                    piece.element + a - piece.start,
                    tile.block.staged[part.stream],
                    rows[:, a - first : b - first],
                )
