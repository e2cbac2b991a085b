"""The rows of some columns: converted, and subtracted from each other, in scratch memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from trajfile.engine.arena import Arena
from trajfile.engine.blocks import Block
from trajfile.engine.columns import Region, Run, staged_dtype
from trajfile.engine.device import Machine, Slot
from trajfile.engine.lanes import Held, Tile
from trajfile.engine.plan import Plan
from trajfile.engine.rows import Sequence
from trajfile.engine.schedule import RegionWork, carried_rows
from trajfile.engine.shape import WIDE_BAND
from trajfile.engine.staging import Part
from trajfile.stopwatch import at


class Former:
    """Forms the rows of some columns at a time, in scratch memory of its own.

    Args:
        plan: The plan.
        machine: Where.
        held: The rows that outlive a block.
        arena: Where to take the scratch memory from, if there is one.

    Attributes:
        scratch: The scratch memory, in the plan's precision.
    """

    def __init__(self, plan: Plan, machine: Machine, held: Held, arena: Arena | None) -> None:
        self._plan, self._machine, self._held = plan, machine, held
        self._indices: dict[tuple[Block, int], torch.Tensor] = {}
        self._used = 0
        dtype = getattr(torch, plan.precision)
        size = plan.scratch_elements
        if arena is not None:
            self.scratch = arena.take(size * dtype.itemsize).view(dtype)
        elif plan.profile.batched:  # whose products are float64
            self._float64 = torch.zeros(size, dtype=torch.float64, device=machine.device)
            self.scratch = self._float64.view(dtype)
        else:
            self.scratch = torch.zeros(size, dtype=dtype, device=machine.device)

    def begin(self, columns: tuple[int, int]) -> None:
        """Turn to other columns, with nothing formed of them yet."""
        self._used = WIDE_BAND * (columns[1] - columns[0])  # the margin of `NarrowBand`

    def references(self, tile: Tile, region: Region, columns: tuple[int, int]) -> None:
        """Hold the reference rows that come with a tile."""
        for reference, staged in enumerate(tile.block.references):
            stream, _ = self._plan.rows.references[reference]
            if stream in region.first_rows:
                into = self._held.references[reference : reference + 1, columns[0] : columns[1]]
                self.convert(tile, stream, (staged, 1, 1), columns, into)

    def take(self, rows: int, columns: int) -> torch.Tensor:
        """The next free part of the scratch memory, shape (rows, columns)."""
        start, self._used = self._used, self._used + rows * columns
        assert self._used <= len(self.scratch), "the plan leaves room for all rows"
        first = self.scratch.storage_offset() + start
        return self.scratch.as_strided((rows, columns), (columns, 1), first)

    def left(self) -> torch.Tensor:
        """What is free of the scratch memory, float64."""
        used = self._used * self.scratch.itemsize
        return self._float64[-(-used // 8) :]

    def windows(
        self, tile: Tile, work: RegionWork, columns: tuple[int, int]
    ) -> dict[int, torch.Tensor]:
        """Convert the rows that a block brings, behind those that are carried.

        Args:
            tile: The tile.
            work: What draws on them.
            columns: The columns.

        Returns:
            For each track its rows, shape (rows, columns).
        """
        block = tile.block
        windows: dict[int, torch.Tensor] = {}
        width = columns[1] - columns[0]
        for track in work.tracks:
            carried = carried_rows(self._plan, block, track)
            new = block.upto[track] - block.before[track]
            window = windows[track] = self.take(carried + new, width)
            if carried:
                window[:carried] = self._held.carried[track][-carried:, columns[0] : columns[1]]
            gather = block.gathers[track]
            if gather is not None and gather[0] in windows:
                source = windows[gather[0]][carried_rows(self._plan, block, gather[0]) :]
                if (block, track) not in self._indices:
                    self._indices[block, track] = self._machine.index(gather[1])
                index = self._indices[block, track]
                torch.index_select(source, 0, index, out=window[carried:])
                continue
            stream = self._plan.rows.tracks[track].stream
            for copy in block.copies[track]:
                into = window[carried + copy.into : carried + copy.into + copy.rows]
                if copy.held:
                    into.copy_(self._held.references[copy.start, columns[0] : columns[1]])
                else:
                    source_rows = copy.start, copy.rows, copy.stride
                    self.convert(tile, stream, source_rows, columns, into)
        return windows

    def convert(
        self,
        tile: Tile,
        stream: str,
        rows: tuple[int, int, int],
        columns: tuple[int, int],
        into: torch.Tensor,
    ) -> None:
        """Convert staged rows.

        Args:
            tile: The tile that they are staged in.
            stream: Whose they are.
            rows: The first of them, how many, and the distance between two.
            columns: The columns.
            into: Where to, shape (rows, columns).
        """
        with at("copy"):
            for part in tile.parts:
                if part.stream == stream:
                    for a, b in _overlap(part.run, columns):
                        source = _staged(tile.slot, part, rows, (a, b))
                        whole = (a, b) == columns
                        (into if whole else into[:, a - columns[0] : b - columns[0]]).copy_(source)

    def form(
        self, sequence: Sequence, windows: dict[int, torch.Tensor], columns: tuple[int, int]
    ) -> torch.Tensor:
        """Form the rows of a sequence.

        Args:
            sequence: The sequence.
            windows: The rows of each track.
            columns: Their columns.

        Returns:
            Its rows, shape (rows, columns).
        """
        window = windows[sequence.track]
        if sequence.form == "value":
            return window
        if sequence.form == "difference":
            out = self.take(max(0, len(window) - 1), window.shape[1])
            if len(out):
                torch.sub(window[1:], window[:-1], out=out)
            return out
        out = self.take(*window.shape)
        reference = self._held.references[sequence.reference, columns[0] : columns[1]]
        return torch.sub(window, reference, out=out)

    def carry(self, windows: dict[int, torch.Tensor], columns: tuple[int, int]) -> None:
        """Hold the rows that a later block will want."""
        for track, window in windows.items():
            carried = self._held.carried[track]
            kept = min(len(carried), len(window))
            if kept:
                carried[len(carried) - kept :, columns[0] : columns[1]] = window[-kept:]


def _overlap(run: Run, columns: tuple[int, int]) -> Iterator[tuple[int, int]]:
    a, b = max(run.start, columns[0]), min(run.stop, columns[1])
    if a < b:
        yield a, b


def _staged(
    slot: Slot, part: Part, rows: tuple[int, int, int], columns: tuple[int, int]
) -> torch.Tensor:
    """Rows (first, count, stride) of a part of a tile on the device, and columns of the strip."""
    dtype = getattr(torch, staged_dtype(part.run.lane))
    numbers, width = slot.numbers(dtype), part.run.stop - part.run.start
    first = part.offset // dtype.itemsize + rows[0] * width + columns[0] - part.run.start
    shape = rows[1], columns[1] - columns[0]
    return numbers.as_strided(shape, (rows[2] * width, 1), numbers.storage_offset() + first)
