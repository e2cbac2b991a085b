"""Forming and multiplying by compiled kernels: float32 rows on the processor.

The rows of a staged tile are multiplied where they lie; of one that is read piece by piece, in the
frame that they are read to. What is formed of them stays in the cache, a few steps of a few columns
at a time; `trajfile.engine.program` says how.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch

from trajfile.containers import checksum
from trajfile.engine.arena import Arena
from trajfile.engine.blocks import Block
from trajfile.engine.columns import FUSED, Region, staged_dtype
from trajfile.engine.fetching import Fetch
from trajfile.engine.frames import Frame, make_frame
from trajfile.engine.lanes import Held, Lane, Tile
from trajfile.engine.phases import cut_phases
from trajfile.engine.places import PAD, Places, place_rows
from trajfile.engine.plan import Plan
from trajfile.engine.program import Program, make_program
from trajfile.engine.schedule import RegionWork
from trajfile.engine.staging import Part
from trajfile.engine.step import Loops, Step
from trajfile.engine.totals import TotalsLayout

#: Columns at a time: as many rows of them as are wanted together fit the second-level cache.
_CHUNK = 1024
_LEAST_CHUNK = 32
#: One part in so many of the scratch memory is for the sums of single tensors.
_SHARE = 4
#: Tensors told apart at a time, if there is room.
_TENSORS = 8


def kernels() -> Any | None:
    """The compiled kernels; None where Numba is not installed or is forbidden."""
    if not checksum.prepare():
        return None
    try:
        from trajfile.engine import kernels
    except ImportError:
        return None
    return kernels


class Fused:
    """The compiled way of multiplying, shared by all workers of a pass.

    Args:
        plan: The plan, in float32.
        arena: Holds the slots, the held rows and all scratch memory.
        held: The rows that outlive a block.
        compiled: The kernels.
        layout: Where sums lie.
    """

    def __init__(
        self, plan: Plan, arena: Arena, held: Held, compiled: Any, layout: TotalsLayout
    ) -> None:
        self.plan, self.arena, self.held = plan, arena, held
        self.loops = Loops(arena, compiled)
        self.layout = layout
        self._programs: dict[Hashable, Program] = {}
        self._frames: dict[Hashable, tuple[Frame, Places] | None] = {}
        self._works: list[RegionWork] = []  # kept alive, so that an id names one of them
        self._lock = threading.Lock()

    def intervals(self, tile: Tile, region: Region) -> Iterator[tuple[int, int]]:
        """Cut a region where a stream goes on in another part of the tile."""
        cuts = {region.start, region.stop}
        for part in tile.parts:
            cuts.update(
                c for c in (part.run.start, part.run.stop) if region.start < c < region.stop
            )
        ordered = sorted(cuts)
        yield from pairwise(ordered)

    def frame(self, tile: Tile, work: RegionWork, interval: tuple[int, int]) -> Frame | None:
        """Room for a piece of an interval of a region, in the scratch memory of a worker.

        Args:
            tile: The tile.
            work: What to form in the region.
            interval: One of `intervals`.

        Returns:
            The frame; None if rows are of other dtypes, or need too much scratch.
        """
        parts = _parts_at(tile, interval)
        program = self._program(tile.block, work, parts)
        found = program and self._framed(tile.block, program, parts)
        return found[0] if found else None

    def multiply(
        self,
        tile: Tile,
        region: Region,
        work: RegionWork,
        columns: tuple[int, int],
        lane: Lane,
        scratch: torch.Tensor,
        fetch: Fetch | None = None,
    ) -> bool:
        """Take columns of an interval of a region.

        Args:
            tile: The tile.
            region: The region.
            work: What to form in it.
            columns: Columns within one of `intervals`.
            lane: Whose sums to add to.
            scratch: Scratch memory, float32.
            fetch: Reads a piece, if the tile is read piece by piece.

        Returns:
            Whether it was done; False if the rows are of other dtypes, or need too much scratch.
        """
        parts = _parts_at(tile, columns)
        program = self._program(tile.block, work, parts)
        if program is None:
            return False
        size = scratch.numel()
        framed = self._framed(tile.block, program, parts) if fetch is not None else None
        assert framed or fetch is None, "it was seen before that there is room for a frame"
        if framed is None:
            chunk, free = self._chunk(program, size), size // _SHARE
        else:
            chunk, free = _CHUNK, size - framed[0].nbytes // 4
        batch = free // (2 * program.own_size) if program.own_size else size  # sums are float64
        if not chunk or not batch:
            return False
        first, stop = columns
        pieces = region.between(first, stop)
        for start in range(0, len(pieces), batch):
            some = pieces[start : start + batch]
            step = Step(self.loops, program, some, lane, scratch, chunk)
            part = max(first, some[0].start), min(stop, some[-1].stop)
            if framed is None:
                places = self._placed(tile, program, parts, chunk)
                step.multiply(places, tile.slot.host, part)
            else:
                assert fetch is not None
                frame, places = framed
                for _ in fetch.turns(region, *part, frame.columns):
                    step.read_and_multiply(places, frame, fetch)
            step.end()
        return True

    def _chunk(self, program: Program, size: int) -> int:
        """Columns of a chunk of a staged tile; 0 if the scratch memory is too small."""
        room = size - size // _SHARE
        chunk = min(_CHUNK, room // max(1, program.scratch_rows) - PAD) // 16 * 16
        return chunk if chunk >= _LEAST_CHUNK else 0

    def _program(self, block: Block, work: RegionWork, parts: Mapping[str, Part]) -> Program | None:
        """What is done where streams lie in these parts; None if they are of other dtypes."""
        dtypes = {stream: staged_dtype(part.run.lane) for stream, part in parts.items()}
        if not set(dtypes.values()) <= FUSED:
            return None
        halves = frozenset(s for s, dtype in dtypes.items() if dtype == "bfloat16")
        key = id(work), halves
        with self._lock:
            if key not in self._programs:
                self._works.append(work)
                self._programs[key] = make_program(self.plan, block, work, halves, self.layout)
            return self._programs[key]

    def _framed(
        self, block: Block, program: Program, parts: Mapping[str, Part]
    ) -> tuple[Frame, Places] | None:
        """Room for a piece where streams lie in such parts: the same for all tiles of a block."""
        dtypes = {stream: part.run.lane for stream, part in parts.items()}
        key = id(program), *dtypes.items()
        with self._lock:
            if key not in self._frames:
                phases = cut_phases(self.plan, block, program, dtypes)
                room = 4 * self.plan.scratch_elements - 8 * program.own_size * _TENSORS
                rows = program.scratch_rows
                frame = make_frame(phases, block, dtypes, rows, room, self.plan.cell)
                self._frames[key] = None
                if frame is not None:
                    places = place_rows(
                        self.plan, block, program, parts, self.held, self.arena, frame
                    )
                    self._frames[key] = frame, places
            return self._frames[key]

    def _placed(
        self, tile: Tile, program: Program, parts: Mapping[str, Part], chunk: int
    ) -> Places:
        """The same for all columns of a tile that lie in the same parts: found once."""
        key = id(program), chunk, *(part.run.start for part in parts.values())
        with self._lock:
            if key not in tile.places:
                tile.places[key] = place_rows(
                    self.plan, tile.block, program, parts, self.held, self.arena, chunk
                )
            places: Places = tile.places[key]
            return places


def _parts_at(tile: Tile, columns: tuple[int, int]) -> dict[str, Part]:
    """For each stream that has columns within an interval, the part that they lie in."""
    return {
        part.stream: part
        for part in tile.parts
        if part.run.start <= columns[0] and columns[1] <= part.run.stop
    }
