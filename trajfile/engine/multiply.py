"""Products within a tile: rows converted, their differences, and the sums of both's products.

A lane's columns are taken in sub-blocks: small enough to stay in cache, or on a device as wide as
memory allows. In each, the rows of every track are converted, then subtracted, then multiplied:
never the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import numpy as np
import torch

from trajfile.engine.arena import Arena
from trajfile.engine.band import Product
from trajfile.engine.batch import Batch, Batches
from trajfile.engine.columns import Region
from trajfile.engine.device import Machine
from trajfile.engine.families import Families
from trajfile.engine.fetching import Fetch
from trajfile.engine.forming import Former
from trajfile.engine.fused import Fused
from trajfile.engine.lanes import Held, Lane, Tile
from trajfile.engine.matrices import Collector
from trajfile.engine.plan import Plan
from trajfile.engine.products import Sums
from trajfile.engine.schedule import PairWork, RegionWork
from trajfile.engine.split import even
from trajfile.schema import GRADIENT_SAMPLES


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
        self.plan, self.machine, self.fused, self.collector = plan, machine, fused, collector
        self.former = Former(plan, machine, held, arena)
        self.scratch = self.former.scratch
        self.batches = None if families is None else Batches(machine, families)

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
            self.former.begin(some)
            if not done:
                self._rows(tile, lane, region, work, some)
            self._samples(tile, lane, region, some)

    def _rows(
        self, tile: Tile, lane: Lane, region: Region, work: RegionWork, columns: tuple[int, int]
    ) -> None:
        self.former.references(tile, region, columns)
        windows = self.former.windows(tile, work, columns)
        formed = {
            side: self.former.form(self.plan.rows.sequences[side], windows, columns)
            for side in work.sequences
        }
        batch = None
        if self.batches is not None:
            room, targets = self.former.left(), self.batches.products(region, work)
            batch = self.batches.batch(lane, tile.strip, region, columns, room, targets)
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
        self.former.carry(windows, columns)

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
        recorded = self.plan.layout.rows[GRADIENT_SAMPLES][tile.block.staged[GRADIENT_SAMPLES]]
        there = [found for found in tile.block.samples if recorded[found[1]] >= first_row]
        if not there:
            return
        width = columns[1] - columns[0]
        room = self.former.take(max(stop - start for _, start, stop in there), width)
        mean, batch = self.former.take(1, width), None
        if self.batches is not None and self.plan.per_tensor:
            left, targets = self.former.left(), self.batches.traces(region, there[0][0])
            batch = self.batches.batch(lane, tile.strip, region, columns, left, targets)
        for number, start, stop in there:
            samples = room[: stop - start]
            rows = start, stop - start, 1
            self.former.convert(tile, GRADIENT_SAMPLES, rows, columns, samples)
            torch.mean(samples, 0, keepdim=True, out=mean)
            samples -= mean
            gram = (samples @ samples.T).to(torch.float64)
            held, means = sums.grams[number], sums.means[number : number + 1]
            held += gram if isinstance(held, torch.Tensor) else gram.numpy()
            means += self.machine.row_dots(mean, mean)
            if batch is not None:
                # In their own precision: PyTorch would convert all of them first.
                torch.sum(samples.mul_(samples), 0, keepdim=True, out=mean)
                batch.rows(1).copy_(mean)
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


def _pieces(region: Region, columns: tuple[int, int]) -> Iterator[tuple[str, int, int]]:
    """The tensors within some columns of a region, and which columns are theirs."""
    for piece in region.between(*columns):
        a, b = max(piece.start, columns[0]), min(piece.stop, columns[1])
        if a < b:
            yield piece.tensor, a, b
