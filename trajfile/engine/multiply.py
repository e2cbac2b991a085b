"""Products within a tile: rows converted, their differences, and the sums of both's products.

A lane's columns are taken in sub-blocks small enough to stay in cache. In each, the rows of every
track are converted, then subtracted, then multiplied: never the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import numpy as np
import torch

from trajfile.engine.arena import Arena
from trajfile.engine.band import Product
from trajfile.engine.batch import Batch, Batches
from trajfile.engine.blocks import Block
from trajfile.engine.columns import Region, Run, staged_dtype
from trajfile.engine.device import Machine, Slot
from trajfile.engine.families import Families
from trajfile.engine.fetching import Fetch
from trajfile.engine.fused import Fused
from trajfile.engine.lanes import Held, Lane, Tile
from trajfile.engine.matrices import Collector
from trajfile.engine.plan import Plan
from trajfile.engine.products import Sums
from trajfile.engine.rows import Sequence
from trajfile.engine.schedule import PairWork, RegionWork, carried_rows
from trajfile.engine.shape import WIDE_BAND
from trajfile.engine.split import even
from trajfile.engine.staging import Part
from trajfile.schema import GRADIENT_SAMPLES
from trajfile.stopwatch import at


class Worker:
    """Multiplies a lane's share of a tile.

    Args:
        plan: The plan.
        machine: Where.
        held: Shared between workers.
        families: Of the tensors that are met, for a machine that wants few operations.
        arena: Where to take scratch memory from, if there is one.
        fused: The compiled way, if there is one.
        collector: Keeps rows of tiles that are read piece by piece, if any are wanted.
    """

    def __init__(
        self,
        plan: Plan,
        machine: Machine,
        held: Held,
        families: Families | None = None,
        arena: Arena | None = None,
        fused: Fused | None = None,
        collector: Collector | None = None,
    ) -> None:
        self.plan, self.machine, self.held, self.fused = plan, machine, held, fused
        self.collector = collector
        dtype = getattr(torch, plan.precision)
        size = plan.scratch_elements
        self.batches = None if families is None else Batches(machine, families)
        self.indices: dict[tuple[Block, int], torch.Tensor] = {}
        if arena is not None:
            self.scratch = arena.take(size * dtype.itemsize).view(dtype)
        elif self.batches is not None:  # products are float64
            self.scratch64 = torch.zeros(size, dtype=torch.float64, device=machine.device)
            self.scratch = self.scratch64.view(dtype)
        else:
            self.scratch = torch.zeros(size, dtype=dtype)
        self.used = 0

    def multiply(self, tile: Tile, lane: Lane, stop: Event) -> None:
        """Take a lane's share of a tile.

        Args:
            tile: The tile.
            lane: The lane.
            stop: Checked between sub-blocks; once set, the rest is left undone.

        Raises:
            UnreadError: If a piece of the tile cannot be read.
        """
        fetch = None
        if tile.direct is not None:
            assert self.fused is not None
            arena = self.fused.arena
            fetch = Fetch(tile, tile.direct, arena, self.scratch, self.collector)
        with self.machine.scope(), np.errstate(all="ignore"):
            for region, work in zip(tile.strip.regions, tile.work, strict=True):
                if self.fused is None:
                    intervals = [(region.start, region.stop)]
                else:
                    intervals = list(self.fused.intervals(tile, region))
                for interval in intervals:
                    for columns in lane.cells(*interval):
                        if not stop.is_set():
                            self._cell(tile, lane, region, work, columns, fetch)
        if fetch is not None:
            fetch.end()

    def _cell(
        self,
        tile: Tile,
        lane: Lane,
        region: Region,
        work: RegionWork,
        columns: tuple[int, int],
        fetch: Fetch | None,
    ) -> None:
        done = self.fused is not None and self.fused.multiply(
            tile, region, work, columns, lane, self.scratch, fetch
        )
        assert done or fetch is None, "it was seen before that it can be done"
        if done and not tile.block.samples:
            return
        step = self.plan.columns
        if self.batches is not None:
            step = even(columns[1] - columns[0], step)
        for start in range(columns[0], columns[1], step):
            some = start, min(start + step, columns[1])
            self.used = WIDE_BAND * (some[1] - some[0])  # the margin of `NarrowBand`
            if not done:
                self._rows(tile, lane, region, work, some)
            self._samples(tile, lane, region, some)

    def _take(self, rows: int, columns: int) -> torch.Tensor:
        """The next free part of the scratch memory, shape (rows, columns)."""
        start, self.used = self.used, self.used + rows * columns
        assert self.used <= len(self.scratch), "the plan leaves room for all rows"
        first = self.scratch.storage_offset() + start
        return self.scratch.as_strided((rows, columns), (columns, 1), first)

    def _left(self) -> torch.Tensor:
        """What is free of the scratch memory, float64."""
        used = self.used * self.scratch.itemsize
        return self.scratch64[-(-used // 8) :]

    def _rows(
        self, tile: Tile, lane: Lane, region: Region, work: RegionWork, columns: tuple[int, int]
    ) -> None:
        for reference, staged in enumerate(tile.block.references):
            stream, _ = self.plan.rows.references[reference]
            if stream in region.first_rows:
                into = self.held.references[reference : reference + 1, columns[0] : columns[1]]
                self._convert(tile, stream, (staged, 1, 1), columns, into)
        windows = self._windows(tile, work, columns)
        formed = {
            side: self._form(self.plan.rows.sequences[side], windows, columns)
            for side in work.sequences
        }
        batch = None
        if self.batches is not None:
            room = self._left()
            batch = self.batches.products(lane, tile.strip, region, work, columns, room)
        for item in work.pairs:
            product = Product(formed[item.left], formed[item.right], item.origin, columns)
            if batch is None:
                self._tensors(lane, region, item, product)
            else:
                for _, stretch in item.single:
                    batch.add(*product.rows(stretch))
            self._runs(lane, item, product, batch)
        if batch is not None:
            batch.flush()
        for track, window in windows.items():
            carried = self.held.carried[track]
            kept = min(len(carried), len(window))
            if kept:
                carried[len(carried) - kept :, columns[0] : columns[1]] = window[-kept:]

    def _windows(
        self, tile: Tile, work: RegionWork, columns: tuple[int, int]
    ) -> dict[int, torch.Tensor]:
        """For each track its carried and its new rows, in float64."""
        block = tile.block
        windows: dict[int, torch.Tensor] = {}
        width = columns[1] - columns[0]
        for track in work.tracks:
            carried = carried_rows(self.plan, block, track)
            new = block.upto[track] - block.before[track]
            window = windows[track] = self._take(carried + new, width)
            if carried:
                window[:carried] = self.held.carried[track][-carried:, columns[0] : columns[1]]
            gather = block.gathers[track]
            if gather is not None and gather[0] in windows:
                source = windows[gather[0]][carried_rows(self.plan, block, gather[0]) :]
                if (block, track) not in self.indices:
                    self.indices[block, track] = self.machine.index(gather[1])
                index = self.indices[block, track]
                torch.index_select(source, 0, index, out=window[carried:])
                continue
            stream = self.plan.rows.tracks[track].stream
            for copy in block.copies[track]:
                into = window[carried + copy.into : carried + copy.into + copy.rows]
                if copy.held:
                    into.copy_(self.held.references[copy.start, columns[0] : columns[1]])
                else:
                    source_rows = copy.start, copy.rows, copy.stride
                    self._convert(tile, stream, source_rows, columns, into)
        return windows

    def _convert(
        self,
        tile: Tile,
        stream: str,
        rows: tuple[int, int, int],
        columns: tuple[int, int],
        into: torch.Tensor,
    ) -> None:
        """Convert staged rows (start, count, stride) of a stream into `into`."""
        with at("copy"):
            for part in tile.parts:
                if part.stream == stream:
                    for a, b in _overlap(part.run, columns):
                        source = _staged(tile.slot, part, rows, (a, b))
                        whole = (a, b) == columns
                        (into if whole else into[:, a - columns[0] : b - columns[0]]).copy_(source)

    def _form(
        self, sequence: Sequence, windows: dict[int, torch.Tensor], columns: tuple[int, int]
    ) -> torch.Tensor:
        """The rows of a sequence within the window of its track."""
        window = windows[sequence.track]
        if sequence.form == "value":
            return window
        if sequence.form == "difference":
            out = self._take(max(0, len(window) - 1), window.shape[1])
            if len(out):
                torch.sub(window[1:], window[:-1], out=out)
            return out
        out = self._take(*window.shape)
        reference = self.held.references[sequence.reference, columns[0] : columns[1]]
        return torch.sub(window, reference, out=out)

    def _tensors(self, lane: Lane, region: Region, work: PairWork, product: Product) -> None:
        """Add products tensor by tensor, each where it lies in the cache."""
        total = lane.sums.bands[work.number].total
        for column, stretch in work.single:
            part = slice(stretch.start, stretch.stop)
            left, right = product.rows(stretch)
            for tensor, a, b in _pieces(region, product.columns):
                own = slice(a - product.columns[0], b - product.columns[0])
                values = self.machine.row_dots(left[:, own], right[:, own])
                total[part, stretch.column] += values
                lane.tensor(work.number, tensor)[part, column] += values

    def _runs(self, lane: Lane, work: PairWork, product: Product, batch: Batch | None) -> None:
        """Add products that are not wanted tensor by tensor."""
        total = lane.sums.bands[work.number].total
        for run in work.runs:
            if len(run) > 1:
                lane.band(work.number, run).add(product)
                continue
            sums = total[run[0].start : run[0].stop, run[0].column]
            if batch is None:
                sums += self.machine.row_dots(*product.rows(run[0]))
            else:
                batch.add_up(*product.rows(run[0]), sums)

    def _samples(self, tile: Tile, lane: Lane, region: Region, columns: tuple[int, int]) -> None:
        """Add the centred Grams of the gradient samples in a block."""
        sums, first_row = lane.sums, region.first_rows.get(GRADIENT_SAMPLES)
        if first_row is None:
            return
        rows = self.plan.layout.rows[GRADIENT_SAMPLES][tile.block.staged[GRADIENT_SAMPLES]]
        there = [found for found in tile.block.samples if rows[found[1]] >= first_row]
        if not there:
            return
        width = columns[1] - columns[0]
        room = self._take(max(stop - start for _, start, stop in there), width)
        mean, batch = self._take(1, width), None
        if self.batches is not None and self.plan.per_tensor:
            first, left = there[0][0], self._left()
            batch = self.batches.traces(lane, tile.strip, region, first, columns, left)
        for number, start, stop in there:
            samples = room[: stop - start]
            self._convert(tile, GRADIENT_SAMPLES, (start, stop - start, 1), columns, samples)
            torch.mean(samples, 0, keepdim=True, out=mean)
            samples -= mean
            gram = (samples @ samples.T).to(torch.float64)
            held, means = sums.grams[number], sums.means[number : number + 1]
            held += gram if isinstance(held, torch.Tensor) else gram.numpy()
            means += self.machine.row_dots(mean, mean)
            if batch is not None:
                torch.sum(samples.mul_(samples), 0, keepdim=True, out=batch.rows(1))
            elif self.plan.per_tensor:
                self._traces(sums, number, region, columns, samples)
        if batch is not None:
            batch.flush()

    def _traces(
        self,
        sums: Sums,
        number: int,
        region: Region,
        columns: tuple[int, int],
        samples: torch.Tensor,
    ) -> None:
        """Add each tensor's part in the trace of the Gram of a step's centred samples."""
        for tensor, a, b in _pieces(region, columns):
            own = samples[:, a - columns[0] : b - columns[0]]
            if tensor not in sums.traces:
                sums.traces[tensor] = self.machine.zeros((len(sums.grams),))
            sums.traces[tensor][number] += self.machine.row_dots(own, own).sum()


def _overlap(run: Run, columns: tuple[int, int]) -> Iterator[tuple[int, int]]:
    a, b = max(run.start, columns[0]), min(run.stop, columns[1])
    if a < b:
        yield a, b


def _pieces(region: Region, columns: tuple[int, int]) -> Iterator[tuple[str, int, int]]:
    """The tensors within some columns of a region, and which columns are theirs."""
    for piece in region.between(*columns):
        a, b = max(piece.start, columns[0]), min(piece.stop, columns[1])
        if a < b:
            yield piece.tensor, a, b


def _staged(
    slot: Slot, part: Part, rows: tuple[int, int, int], columns: tuple[int, int]
) -> torch.Tensor:
    """Rows (start, count, stride) of a part of a tile on the device, and columns of the strip."""
    dtype = getattr(torch, staged_dtype(part.run.lane))
    numbers, width = slot.numbers(dtype), part.run.stop - part.run.start
    first = part.offset // dtype.itemsize + rows[0] * width + columns[0] - part.run.start
    shape = rows[1], columns[1] - columns[0]
    return numbers.as_strided(shape, (rows[2] * width, 1), numbers.storage_offset() + first)
