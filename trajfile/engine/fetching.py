"""Reading pieces of a tile into a worker's scratch memory, and keeping what is wanted of them."""

from __future__ import annotations

import torch

from trajfile.engine.arena import Arena
from trajfile.engine.collecting import collect
from trajfile.engine.columns import Region
from trajfile.engine.direct import Direct
from trajfile.engine.lanes import Tile
from trajfile.engine.matrices import Collector
from trajfile.stopwatch import at


class Fetch:
    """What a worker reads of a tile.

    Args:
        tile: The tile.
        direct: How it is read.
        arena: Holds the scratch memory.
        scratch: The worker's scratch memory, float32.
        collector: Keeps rows of some tensors, if any are wanted.

    Attributes:
        memory: The part of the scratch memory where pieces go.
        scratch: What is left of it.
        region: The region that is being read.
    """

    def __init__(
        self,
        tile: Tile,
        direct: Direct,
        arena: Arena,
        scratch: torch.Tensor,
        collector: Collector | None,
    ) -> None:
        size = direct.nbytes // 4
        self.memory, self.scratch = scratch[:size], scratch[size:]
        self.region: Region = tile.strip.regions[0]
        self._tile, self._direct, self._arena, self._collector = tile, direct, arena, collector
        self._begin = 4 * arena.offset(self.memory)
        self._sums = direct.pieces.no_sums()

    def read(self, start: int, stop: int) -> None:
        """Read columns [start, stop).

        Args:
            start: The first column.
            stop: The column after the last.

        Raises:
            UnreadError: If they cannot be read.
        """
        columns = start, stop
        self._direct.fetch(columns, self._arena, self._begin, self._sums)
        if self._collector is not None:
            with at("copy"):
                collect(
                    *(self._collector, self._tile, self.region, columns),
                    lambda part: (
                        self._direct.values(part, columns, self._arena, self._begin),
                        start,
                    ),
                )

    def end(self) -> None:
        """Hand in the sums for the checksums."""
        self._direct.add(self._sums)
