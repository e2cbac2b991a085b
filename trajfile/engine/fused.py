"""Forming and multiplying by compiled kernels: float32 rows on the processor.

The rows of a tile are multiplied where they lie. What is formed of them stays in the cache, a few
steps of a few columns at a time; `trajfile.engine.program` says how.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trajfile.containers import checksum
from trajfile.engine.arena import Arena
from trajfile.engine.columns import FUSED, Region, staged_dtype
from trajfile.engine.fetching import Fetch
from trajfile.engine.lanes import Held, Lane, Tile
from trajfile.engine.plan import Plan
from trajfile.engine.program import Program, make_program
from trajfile.engine.rows import Index
from trajfile.engine.schedule import RegionWork, carried_rows
from trajfile.engine.staging import Part
from trajfile.engine.totals import TotalsLayout

#: Columns at a time: as many rows of them as are wanted together fit the second-level cache.
_CHUNK = 1024
_LEAST_CHUNK = 32
#: Room between scratch rows, so that a column's coordinates do not all compete for one cache set.
_PAD = 16
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


@dataclass(frozen=True, eq=False)
class _Rows:
    """Where the rows of a program lie, for columns whose streams each lie in one part of a tile.

    Staged rows, of which there are new ones for each tile or piece, count from where it begins.
    """

    base: Index
    staged: Index
    moves: Index
    half: Index
    before: Index
    after: Index


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
        self.plan, self.arena, self.held, self.compiled = plan, arena, held, compiled
        self.layout = layout
        self.views = tuple(arena.view(d) for d in (np.float32, np.uint16, np.uint32))
        self._programs: dict[tuple[int, frozenset[str]], Program] = {}
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
        program = self._program_of(tile, work, parts)
        if program is None:
            return False
        chunk, batch = self._cut(program, scratch.numel())
        if not chunk or not batch:
            return False
        rows = self._placed(tile, region, program, parts, chunk)
        first, stop = columns
        pieces = region.between(first, stop)
        for start in range(0, len(pieces), batch):
            some = pieces[start : start + batch]
            sums = self._tensor_sums(program, scratch, len(some))
            segments = np.array([(p.start, p.stop) for p in some], np.int64)
            part = max(first, some[0].start), min(stop, some[-1].stop)
            for base, a, b in self._lying(tile, rows, part, fetch):
                self._copy(base, rows, rows.before, (a, b))
                self.compiled.multiply(
                    *self.views,
                    base,
                    rows.moves,
                    rows.half,
                    program.code,
                    program.masks,
                    segments,
                    *(a, b),
                    chunk,
                    self.arena.offset(scratch),
                    lane.totals,
                    sums,
                )
                self._copy(base, rows, rows.after, (a, b))
            for piece, values in zip(some, sums, strict=True):
                lane.add_tensor(program.own, piece.tensor, values)
        return True

    def _lying(
        self, tile: Tile, rows: _Rows, columns: tuple[int, int], fetch: Fetch | None
    ) -> Iterator[tuple[Index, int, int]]:
        """Some columns, all at once or piece by piece, and where each row lies meanwhile."""
        if tile.direct is None or fetch is None:
            # Twice as many bfloat16 numbers as float32 numbers lie ahead.
            yield rows.base + rows.staged * self.arena.offset(tile.slot.host), *columns
            return
        base = rows.base + rows.staged * self.arena.offset(fetch.memory)
        moved = (rows.staged > 0).astype(np.int64)
        for start, stop in tile.direct.cut(*columns):
            fetch.read(start, stop)
            yield base - start * moved, start, stop  # a piece begins with its own first column

    def spare(self, tile: Tile, size: int) -> int:
        """How much scratch memory a tile leaves unused.

        Args:
            tile: The tile; of dtypes that are multiplied here.
            size: How many float32 numbers the scratch memory holds.

        Returns:
            How many are left if chunks are as wide, and tensors as many at a time, as pays.
        """
        wanted = 0
        for region, work in zip(tile.strip.regions, tile.work, strict=True):
            for interval in self.intervals(tile, region):
                program = self._program_of(tile, work, _parts_at(tile, interval))
                if program is None:
                    return 0
                chunks = program.scratch_rows * (_CHUNK + _PAD)
                sums = 2 * program.own_size * _TENSORS
                wanted = max(wanted, _SHARE * -(-chunks // (_SHARE - 1)), _SHARE * sums)
        return max(0, size - wanted)

    def _copy(self, base: Index, rows: _Rows, copies: Index, columns: tuple[int, int]) -> None:
        if len(copies):
            self.compiled.copy_rows(*self.views, base, rows.half, copies, *columns)

    def _cut(self, program: Program, size: int) -> tuple[int, int]:
        """Columns of a chunk, and tensors told apart at a time; 0 if the scratch is too small."""
        batch = size
        if program.own_size:
            batch = size // _SHARE // (2 * program.own_size)  # sums are float64
        room = size - size // _SHARE
        chunk = min(_CHUNK, room // max(1, program.scratch_rows) - _PAD) // 16 * 16
        return (chunk if chunk >= _LEAST_CHUNK else 0), batch

    def _tensor_sums(
        self, program: Program, scratch: torch.Tensor, tensors: int
    ) -> NDArray[np.float64]:
        """Sums for some tensors, zero, at the end of the scratch memory."""
        count = tensors * program.own_size
        whole = scratch.numpy()
        sums = whole[len(whole) // 2 * 2 - 2 * count : len(whole) // 2 * 2].view(np.float64)
        sums[:] = 0
        return sums.reshape(tensors, -1) if count else np.zeros((tensors, 0))

    def _program_of(self, tile: Tile, work: RegionWork, parts: dict[str, Part]) -> Program | None:
        """What is done where streams lie in these parts; None if they are of other dtypes."""
        dtypes = {stream: staged_dtype(part.run.lane) for stream, part in parts.items()}
        if not set(dtypes.values()) <= FUSED:
            return None
        halves = frozenset(s for s, dtype in dtypes.items() if dtype == "bfloat16")
        return self._program(tile, work, halves)

    def _program(self, tile: Tile, work: RegionWork, halves: frozenset[str]) -> Program:
        key = id(work), halves
        with self._lock:
            if key not in self._programs:
                self._works.append(work)
                self._programs[key] = make_program(self.plan, tile.block, work, halves, self.layout)
            return self._programs[key]

    def _placed(
        self, tile: Tile, region: Region, program: Program, parts: dict[str, Part], chunk: int
    ) -> _Rows:
        """The same for all columns of a tile that lie in the same parts: found once."""
        key = id(region), id(program), chunk, *(part.run.start for part in parts.values())
        with self._lock:
            if key not in tile.places:
                tile.places[key] = self._place(tile, region, program, parts, chunk)
            rows: _Rows = tile.places[key]
            return rows

    def _place(
        self, tile: Tile, region: Region, program: Program, parts: dict[str, Part], chunk: int
    ) -> _Rows:
        """Offsets of all rows of a program, counted so that the first column is column 0."""
        base = np.zeros(program.rows, np.int64)
        mark = np.zeros(program.rows, np.int64)
        moves = (program.scratch < 0).astype(np.int64)
        half = np.zeros(program.rows, np.int64)
        held = self.held
        references = np.arange(len(self.plan.rows.references))
        base[references] = self.arena.offset(held.references) + references * held.width
        extra: list[tuple[int, bool]] = []
        before: list[tuple[int, int]] = []
        after: list[tuple[int, int]] = []

        def staged(stream: str, rows: Index) -> tuple[Index, bool]:
            part = parts[stream]
            is_half = staged_dtype(part.run.lane) == "bfloat16"
            item = 2 if is_half else 4
            if tile.direct is not None:
                place = tile.direct.rows[stream]
                return (place.start + rows * place.stride) // item, is_half
            width = part.run.stop - part.run.start
            return part.offset // item + rows * width - part.run.start, is_half

        for reference, row in enumerate(tile.block.references):
            stream, _ = self.plan.rows.references[reference]
            if stream in region.first_rows:
                place, is_half = staged(stream, np.array([row], np.int64))
                before.append((program.rows + len(extra), int(base[reference])))
                extra.append((int(place[0]), is_half))
        for track, (first, count) in program.tracks.items():
            carried = carried_rows(self.plan, tile.block, track)
            kept = held.carried[track]
            offset = self.arena.offset(kept)
            base[first : first + carried] = offset + held.width * np.arange(
                len(kept) - carried, len(kept)
            )
            stream = self.plan.rows.tracks[track].stream
            for copy in tile.block.copies[track]:
                here = first + carried + copy.into + np.arange(copy.rows)
                if copy.held:
                    base[here] = base[copy.start]
                    continue
                rows = copy.start + copy.stride * np.arange(copy.rows, dtype=np.int64)
                base[here], is_half = staged(stream, rows)
                half[here], mark[here] = is_half, 1 + is_half
            for back in range(min(len(kept), count), 0, -1):
                after.append((first + count - back, offset + (len(kept) - back) * held.width))
        formed = program.scratch >= 0
        base[formed] = program.scratch[formed] * (chunk + _PAD)
        return _Rows(
            base=np.concatenate([base, np.array([e[0] for e in extra], np.int64)]),
            staged=np.concatenate([mark, np.array([1 + e[1] for e in extra], np.int64)]),
            moves=np.concatenate([moves, np.ones(len(extra), np.int64)]),
            half=np.concatenate([half, np.array([e[1] for e in extra], np.int64)]),
            before=np.array(before, np.int64).reshape(len(before), 2),
            after=np.array(after, np.int64).reshape(len(after), 2),
        )


def _parts_at(tile: Tile, columns: tuple[int, int]) -> dict[str, Part]:
    """For each stream that has columns within an interval, the part that they lie in."""
    return {
        part.stream: part
        for part in tile.parts
        if part.run.start <= columns[0] and columns[1] <= part.run.stop
    }
