"""Reading pieces of a tile into a worker's scratch memory, and keeping what is wanted of them."""

from __future__ import annotations

import torch

from trajfile.containers.stored import ROW, STREAM, Reads
from trajfile.engine.arena import Arena
from trajfile.engine.collecting import Wanted, collect, wanted
from trajfile.engine.columns import Region
from trajfile.engine.direct import Direct
from trajfile.engine.frames import Frame
from trajfile.engine.lanes import Tile
from trajfile.engine.matrices import Collector
from trajfile.stopwatch import at


class Fetch:
    """What a worker reads of a tile.

    Args:
        tile: The tile.
        direct: How it is read.
        arena: Holds the scratch memory.
        scratch: The worker's scratch memory, float32; frames begin where it does.
        collector: Keeps rows of some tensors, if any are wanted.

    Attributes:
        begin: First byte of the scratch memory in the arena.
        pieces: What is read.
        sums: For its checksums, over what this worker read.
    """

    def __init__(
        self,
        tile: Tile,
        direct: Direct,
        arena: Arena,
        scratch: torch.Tensor,
        collector: Collector | None,
    ) -> None:
        self.begin, self.sums = 4 * arena.offset(scratch), direct.pieces.no_sums()
        self.pieces = direct.pieces
        self._tile, self._direct, self._arena, self._collector = tile, direct, arena, collector
        self._streams = list(tile.block.staged)
        self._columns = 0, 0
        self._wanted: list[Wanted] = []

    def turn_to(self, region: Region, start: int, stop: int) -> None:
        """Read columns [start, stop) of a region from now on.

        Args:
            region: The region.
            start: The first column of a piece.
            stop: The column after the last.
        """
        self._columns = start, stop
        if self._collector is not None:
            self._wanted = list(wanted(self._collector, self._tile, region, self._columns))

    @property
    def columns(self) -> tuple[int, int]:
        """The columns that are read."""
        return self._columns

    @property
    def keeps(self) -> bool:
        """Whether anything is kept of them."""
        return bool(self._wanted)

    def keep(self, frame: Frame, phase: int) -> None:
        """Keep what is wanted of the rows that were read in a phase, while they are there.

        Args:
            frame: Where they are.
            phase: The phase.
        """
        if self._wanted and self._collector is not None:
            with at("copy"):
                self._keep(self._collector, frame, frame.read_in(phase))

    def _keep(self, collector: Collector, frame: Frame, reads: Reads) -> None:
        start, stop = self._columns
        for number, stream in enumerate(self._streams):
            rows = reads[reads[:, STREAM] == number, ROW]
            some = [found for found in self._wanted if found.part.stream == stream]
            if some and len(rows):
                held = frame.held(stream, stop - start, self._arena, self.begin)
                positions = self._tile.block.staged[stream][rows]
                collect(collector, some, held, start, positions, frame.phases.slot[stream][rows])

    def end(self) -> None:
        """Hand in the sums for the checksums."""
        self._direct.add(self.sums)
