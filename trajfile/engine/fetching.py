"""Reading pieces of a tile into a worker's scratch memory, and keeping what is wanted of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from trajfile.containers.stored import ROW, STREAM, Reads
from trajfile.engine.arena import Arena
from trajfile.engine.collecting import Wanted, collect, wanted
from trajfile.engine.columns import Region
from trajfile.engine.direct import Direct
from trajfile.engine.frames import Frame
from trajfile.engine.lanes import Tile
from trajfile.engine.matrices import Collector
from trajfile.engine.rows import Index
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
        self.pieces, self.sums = direct.pieces, direct.pieces.no_sums()
        self._begin = 4 * arena.offset(scratch)  # bytes
        self._tile, self._direct, self._arena, self._collector = tile, direct, arena, collector
        self._columns = 0, 0
        self._wanted: list[Wanted] = []

    def turns(self, region: Region, start: int, stop: int, width: int) -> Iterator[None]:
        """Turn to columns [start, stop) of a region, all at once unless something is kept of them.

        Args:
            region: The region.
            start: The first column.
            stop: The column after the last.
            width: Columns of a piece.

        Yields:
            Once for all pieces, or for each: `columns` are now to be read.
        """
        self._turn_to(region, start, stop)
        if not self._wanted:
            yield
            return
        for first in range(start, stop, width):
            self._turn_to(region, first, min(first + width, stop))
            yield

    def _turn_to(self, region: Region, start: int, stop: int) -> None:
        self._columns = start, stop
        if self._collector is not None:
            self._wanted = list(wanted(self._collector, self._tile, region, self._columns))

    @property
    def columns(self) -> tuple[int, int]:
        """The columns that are read."""
        return self._columns

    def spans(self, frame: Frame) -> Iterator[tuple[int, int]]:
        """Cut the phases after each that reads rows of which something is kept.

        Args:
            frame: What is read in which phase.

        Yields:
            The phases [first, stop).
        """
        ends = {len(frame.cuts) - 1}
        if self._wanted and self._collector is not None:
            ends.update((self._phases(self._collector, frame) + 1).tolist())
        yield from pairwise([0, *sorted(ends)])

    def _phases(self, collector: Collector, frame: Frame) -> Index:
        """The phases that read rows of which something is kept."""
        kept = np.zeros(len(frame.reads), np.bool_)
        for stream, number in self._tile.block.numbers.items():
            own = np.flatnonzero(frame.reads[:, STREAM] == number)
            positions = self._tile.block.staged[stream][frame.reads[own, ROW]]
            tensors = {found.piece.tensor for found in self._wanted if found.part.stream == stream}
            for tensor in tensors:
                kept[own] |= collector.wants_rows(stream, tensor, positions)
        return np.unique(np.searchsorted(frame.cuts, np.flatnonzero(kept), "right") - 1)

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
        for stream, number in self._tile.block.numbers.items():
            rows = reads[reads[:, STREAM] == number, ROW]
            some = [found for found in self._wanted if found.part.stream == stream]
            if some and len(rows):
                held = frame.held(stream, stop - start, self._arena, self._begin)
                positions = self._tile.block.staged[stream][rows]
                collect(collector, some, held, start, positions, frame.phases.slot[stream][rows])

    def end(self) -> None:
        """Hand in the sums for the checksums."""
        self._direct.add(self.sums)
