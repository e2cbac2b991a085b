"""Products of all tensors of some columns at once, as a device wants them.

A device is fast once it is at work, and each operation costs its host the same however much there
is to do. So the products of many rows are formed side by side in scratch memory, columns of all
tensors together, and added up as `trajfile.engine.split` says.
"""

from __future__ import annotations

import numpy as np
import torch

from trajfile.engine.band import part
from trajfile.engine.columns import Region, Strip
from trajfile.engine.device import Machine, Sum
from trajfile.engine.families import Families, Family
from trajfile.engine.lanes import Lane
from trajfile.engine.schedule import RegionWork
from trajfile.engine.split import Split, split


class Batch:
    """Rows of products that are added up together.

    Args:
        cut: How the columns are added up, and on the device.
        room: Scratch memory, float64: at least a row.
        sums: To which products are added, shape (rows, tensors).
        targets: The row of `sums` for each row of products, in their order.
    """

    def __init__(
        self, cut: DeviceSplit, room: torch.Tensor, sums: Sum, targets: torch.Tensor
    ) -> None:
        self._cut, self._sums, self._targets = cut, sums, targets
        width = cut.of.width
        self._most = len(room) // width
        if not self._most:
            raise MemoryError("the pass takes more memory than was planned")
        self._buffer = room[: self._most * width].view(self._most, width)
        self._used = self._done = 0
        self._zeroed = False

    def rows(self, count: int) -> torch.Tensor:
        """Rows to be filled with products, as many as there is room for: `count` at most.

        Args:
            count: How many are wanted.

        Returns:
            Shape (rows, columns), float64.
        """
        if self._used == self._most:
            self.flush()
        start, self._used = self._used, min(self._most, self._used + count)
        shape = self._used - start, self._cut.of.columns
        first = self._buffer.storage_offset() + start * self._cut.of.width
        return self._buffer.as_strided(shape, (self._cut.of.width, 1), first)

    def add(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Add the products of corresponding rows.

        Args:
            left: Shape (rows, columns), in the plan's precision.
            right: The same.
        """
        done = 0
        while done < len(left):
            into = self.rows(len(left) - done)
            stop = done + len(into)
            torch.mul(part(left, done, len(into)), part(right, done, len(into)), out=into)
            done = stop

    def add_up(self, left: torch.Tensor, right: torch.Tensor, sums: Sum) -> None:
        """Add products of corresponding rows over all columns to other sums at once.

        Args:
            left: Shape (rows, columns), in the plan's precision.
            right: The same.
            sums: Shape (rows,), float64.
        """
        done = 0
        while done < len(left):
            into = self.rows(len(left) - done)
            self._used -= len(into)  # they are of no use when they are summed
            stop = done + len(into)
            torch.mul(part(left, done, len(into)), part(right, done, len(into)), out=into)
            some = sums[done:stop]
            some += into.sum(1)
            done = stop

    def flush(self) -> None:
        """Add what was formed to the sums."""
        if not self._used:
            return
        buffer, cut = part(self._buffer, 0, self._used), self._cut
        if not self._zeroed:
            self._buffer[:, cut.of.zero].zero_()
            self._zeroed = True
        for step, index in zip(cut.of.steps, cut.indices, strict=True):
            width = step.groups * step.group
            lies = buffer[:, step.at : step.at + width]
            if index is not None:
                torch.index_select(buffer[:, : step.at], 1, index, out=lies)
            grouped = lies.view(len(buffer), step.groups, step.group)
            torch.sum(grouped, 2, out=buffer[:, step.into : step.into + step.groups])
        result = buffer[:, cut.of.result : cut.of.result + cut.of.tensors]
        torch.index_select(buffer[:, : cut.of.result], 1, cut.last, out=result)
        # Rows are added to once each, so their order is of no consequence.
        rows = part(self._targets, self._done, self._used)
        self._sums.index_add_(0, rows, result)
        self._done, self._used = self._done + self._used, 0


class DeviceSplit:
    """A split, its indices on the device.

    Args:
        of: The split.
        machine: The device.
    """

    def __init__(self, of: Split, machine: Machine) -> None:
        self.of = of
        indices = machine.index(of.indices)
        self.indices = [None if step.index is None else indices[step.index] for step in of.steps]
        self.last = indices[of.last]


class Batches:
    """Makes batches, and keeps what they need on the device.

    Args:
        machine: The device.
        families: Of the tensors that are met.
    """

    def __init__(self, machine: Machine, families: Families) -> None:
        self._machine, self._families = machine, families
        self._strip: Strip | None = None
        self._splits: dict[tuple[int, int], DeviceSplit] = {}
        self._targets: dict[tuple[RegionWork, Family], torch.Tensor] = {}
        self._traces: dict[Family, torch.Tensor] = {}

    def products(self, region: Region, work: RegionWork) -> torch.Tensor:
        """Where the products per tensor of a region during a block are added, in their order.

        Args:
            region: The region.
            work: What is formed in it.

        Returns:
            Rows of the sums of the region's family.
        """
        family = self._families.of(region)
        if (work, family) not in self._targets:
            self._targets[work, family] = self._machine.index(family.targets(work))
        return self._targets[work, family]

    def traces(self, region: Region, first: int) -> torch.Tensor:
        """Where each tensor's part in the traces of sample Grams is added.

        Args:
            region: The region.
            first: The first step with samples that counts; others follow one after another.

        Returns:
            As of `products`.
        """
        family = self._families.of(region)
        assert family.traces is not None
        family.sampled = True
        if family not in self._traces:
            rows = np.arange(family.traces, family.rows)
            self._traces[family] = self._machine.index(rows)
        return self._traces[family][first:]

    def batch(
        self,
        lane: Lane,
        strip: Strip,
        region: Region,
        columns: tuple[int, int],
        room: torch.Tensor,
        targets: torch.Tensor,
    ) -> Batch:
        """A batch for products of some columns.

        Args:
            lane: Whose sums are added to.
            strip: The strip.
            region: The region.
            columns: Some columns of the region.
            room: Scratch memory, float64.
            targets: From `products` or `traces`; products are to be added in this order.

        Returns:
            The batch.
        """
        if strip is not self._strip:  # its blocks come one after another
            self._strip = strip
            self._splits.clear()
        pieces = region.between(*columns)
        if columns not in self._splits:
            begins = [max(piece.start, columns[0]) - columns[0] for piece in pieces]
            bounds = np.array([*begins, columns[1] - columns[0]], np.int64)
            self._splits[columns] = DeviceSplit(split(bounds), self._machine)
        cut = self._splits[columns]
        family = self._families.of(region)
        first = family.tensors[pieces[0].tensor]
        sums = lane.own(family)[:, first : first + cut.of.tensors]
        return Batch(cut, room, sums, targets)
