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
from trajfile.engine.band import Product, new_band
from trajfile.engine.columns import Region, Run, staged_dtype
from trajfile.engine.device import Machine, Slot
from trajfile.engine.fetching import Fetch
from trajfile.engine.fused import Fused
from trajfile.engine.lanes import Held, Lane, Tile
from trajfile.engine.matrices import Collector
from trajfile.engine.plan import Plan
from trajfile.engine.rows import Sequence
from trajfile.engine.schedule import PairWork, RegionWork, carried_rows
from trajfile.engine.shape import WIDE_BAND
from trajfile.engine.staging import Part
from trajfile.schema import GRADIENT_SAMPLES
from trajfile.stopwatch import at


class Worker:
    """Multiplies a lane's share of a tile.

    Args:
        plan: The plan.
        machine: Where.
        held: Shared between workers.
        arena: Where to take scratch memory from, if there is one.
        fused: The compiled way, if there is one.
        collector: Keeps rows of tiles that are read piece by piece, if any are wanted.
    """

    def __init__(
        self,
        plan: Plan,
        machine: Machine,
        held: Held,
        arena: Arena | None = None,
        fused: Fused | None = None,
        collector: Collector | None = None,
    ) -> None:
        self.plan, self.machine, self.held, self.fused = plan, machine, held, fused
        self.collector = collector
        dtype = getattr(torch, plan.precision)
        size = plan.scratch_elements
        if arena is None:
            self.scratch = torch.zeros(size, dtype=dtype, device=machine.device)
        else:
            self.scratch = arena.take(size * dtype.itemsize).view(dtype)
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
            lane.end_tile()
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
        for start in range(columns[0], columns[1], self.plan.columns):
            some = start, min(start + self.plan.columns, columns[1])
            self.used = WIDE_BAND * (some[1] - some[0])  # the margin of `NarrowBand`
            if not done:
                self._rows(tile, lane, region, work, some)
            self._samples(tile, lane, region, some)

    def _take(self, rows: int, columns: int) -> torch.Tensor:
        """The next free part of the scratch memory, shape (rows, columns)."""
        start, self.used = self.used, self.used + rows * columns
        return self.scratch[start : self.used].view(rows, columns)

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
        for item in work.pairs:
            product = Product(formed[item.left], formed[item.right], item.origin, columns)
            self._multiply(lane, region, item, product)
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
                index = torch.from_numpy(gather[1]).to(self.machine.device)
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
        start, count, stride = rows
        with at("copy"):
            for part in tile.parts:
                if part.stream == stream:
                    for a, b in _overlap(part.run, columns):
                        staged = _on_device(tile.slot, part)
                        source = staged[
                            start : start + (count - 1) * stride + 1 : stride,
                            a - part.run.start : b - part.run.start,
                        ]
                        into[:, a - columns[0] : b - columns[0]].copy_(source)

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

    def _multiply(self, lane: Lane, region: Region, work: PairWork, product: Product) -> None:
        total = lane.sums.bands[work.number].total
        for column, stretch in work.single:
            part = slice(stretch.start, stretch.stop)
            for tensor, a, b in _pieces(region, product.columns):
                values = product.rows(self.machine, stretch, a, b)
                total[part, stretch.column] += values
                lane.tensor(work.number, tensor)[part, column] += values
        for run in work.runs:
            if len(run) == 1:
                values = product.rows(self.machine, run[0], *product.columns)
                total[run[0].start : run[0].stop, run[0].column] += values
                continue
            key = work.number, run
            if key not in lane.bands:
                lane.bands[key] = new_band(run, self.machine)
            lane.bands[key].add(product)

    def _samples(self, tile: Tile, lane: Lane, region: Region, columns: tuple[int, int]) -> None:
        """Add the centred Grams of the gradient samples in a block."""
        sums, first_row = lane.sums, region.first_rows.get(GRADIENT_SAMPLES)
        if first_row is None:
            return
        for number, start, stop in tile.block.samples:
            positions = tile.block.staged[GRADIENT_SAMPLES]
            if self.plan.layout.rows[GRADIENT_SAMPLES][positions[start]] < first_row:
                continue
            used = self.used
            samples = self._take(stop - start, columns[1] - columns[0])
            self._convert(tile, GRADIENT_SAMPLES, (start, stop - start, 1), columns, samples)
            mean = self._take(1, columns[1] - columns[0])
            torch.mean(samples, 0, keepdim=True, out=mean)
            samples -= mean
            gram = (samples @ samples.T).to(torch.float64)
            sums.grams[number] += gram if gram.is_cuda else gram.numpy()
            sums.means[number] += self.machine.row_dots(mean, mean)[0]
            if self.plan.per_tensor:
                for tensor, a, b in _pieces(region, columns):
                    own = samples[:, a - columns[0] : b - columns[0]]
                    if tensor not in sums.traces:
                        shape = (len(sums.grams),)
                        sums.traces[tensor] = self.machine.zeros(shape)
                    sums.traces[tensor][number] += self.machine.row_dots(own, own).sum()
            self.used = used


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


def _on_device(slot: Slot, part: Part) -> torch.Tensor:
    """A part of a tile as a tensor on the device, shape (rows, columns of its run)."""
    dtype = getattr(torch, staged_dtype(part.run.lane))
    flat = slot.device[part.offset : part.offset + part.nbytes].view(dtype)
    return flat.view(part.rows, part.run.stop - part.run.start)
