"""Lanes: a fixed division of the columns, so that sums do not depend on who computes them.

The columns of every strip are dealt out to a few lanes, the same whatever the number of threads.
A lane adds up its columns tile by tile, in order; lanes are merged in order when the pass is over.
Any worker may take a lane's share of a tile, as soon as the lane's share of the tile before is
done. So nobody waits for a whole tile to be finished, and the last bit of every sum is the same on
any number of threads.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trajfile.engine.arena import Arena, padded
from trajfile.engine.band import NarrowBand, WideBand, new_band
from trajfile.engine.blocks import Block
from trajfile.engine.columns import Strip
from trajfile.engine.device import Machine, Slot, Sum
from trajfile.engine.direct import Direct
from trajfile.engine.families import Family
from trajfile.engine.plan import Plan
from trajfile.engine.products import Sums, empty_sums
from trajfile.engine.schedule import RegionWork, Stretch
from trajfile.engine.sizes import band_bytes
from trajfile.engine.staging import Part
from trajfile.engine.totals import Own, TotalsLayout


@dataclass(frozen=True, eq=False)
class Tile:
    """A tile that is ready to be multiplied.

    Attributes:
        strip: Its columns.
        block: Its rows.
        parts: Where each part lies in the slot.
        slot: The staged bytes; with nothing in them if the tile is read piece by piece.
        work: For each region what to form.
        direct: How it is read piece by piece, if it is.
        places: Kept by the compiled way: where the rows lie.
    """

    strip: Strip
    block: Block
    parts: tuple[Part, ...]
    slot: Slot
    work: tuple[RegionWork, ...]
    direct: Direct | None = None
    places: dict[Hashable, Any] = field(default_factory=dict)


class Held:
    """What outlives a time block of a strip: carried rows and reference rows.

    Shared between workers, who touch columns of their own lanes only.

    Args:
        plan: The plan.
        machine: Where.
        arena: Where to take the memory from, if there is one.
    """

    def __init__(self, plan: Plan, machine: Machine, arena: Arena | None = None) -> None:
        self.width = plan.widest
        dtype = getattr(torch, plan.precision)

        def rows(count: int) -> torch.Tensor:
            if arena is not None:
                size = count * self.width * dtype.itemsize
                return arena.take(size).view(dtype).view(count, self.width)
            return torch.zeros((count, self.width), dtype=dtype, device=machine.device)

        self.carried = [rows(count) for count in plan.carries]
        self.references = rows(len(plan.rows.references))

    @staticmethod
    def size(plan: Plan) -> int:
        """Bytes that the rows take of an arena."""
        row = plan.widest * getattr(torch, plan.precision).itemsize
        return padded(*(count * row for count in (*plan.carries, len(plan.rows.references))))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.references.nbytes + sum(rows.nbytes for rows in self.carried)


class Lane:
    """The sums over a lane's columns.

    Args:
        plan: The plan.
        machine: Where.
        number: Which of the lanes this is.
        layout: Where sums lie.
    """

    def __init__(self, plan: Plan, machine: Machine, number: int, layout: TotalsLayout) -> None:
        self.plan, self.machine, self.number, self.layout = plan, machine, number, layout
        self.sums: Sums = empty_sums(plan, machine)
        self.totals: Sum = machine.zeros((layout.total_size,))
        for band, pair, start, rows in zip(
            self.sums.bands, plan.rows.pairs, layout.totals, layout.rows, strict=True
        ):
            size = rows * len(pair.lags)
            band.total = self.totals[start : start + size].reshape(rows, len(pair.lags))
        self._bands: dict[int, tuple[int, NarrowBand | WideBand]] = {}
        self._held, self._room = 0, band_bytes(plan.rows, plan.profile.band_block)
        self._own: dict[Family, Sum] = {}

    def cells(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The lane's columns among [start, stop) of a strip."""
        cell = self.plan.cell
        for index in range(start // cell, -(-stop // cell)):
            if index % self.plan.lanes == self.number:
                yield max(start, index * cell), min(stop, (index + 1) * cell)

    def tensor(self, pair: int, tensor: str) -> Sum:
        """A tensor's sums of a pair, shape (rows, tensor lags)."""
        band = self.sums.bands[pair]
        if tensor not in band.tensors:
            lags = len(self.plan.rows.pairs[pair].tensor_lags)
            band.tensors[tensor] = self.machine.zeros((len(band.total), lags))
        return band.tensors[tensor]

    def add_tensor(self, own: Mapping[int, Own], tensor: str, values: NDArray[Any]) -> None:
        """Add a tensor's products of all pairs of a region.

        Args:
            own: Where those of each pair lie.
            tensor: The tensor.
            values: Its products.
        """
        for number, place in own.items():
            some = values[place.offset : place.offset + place.rows * place.lags]
            sums = self.tensor(number, tensor)
            sums[place.first : place.first + place.rows] += some.reshape(place.rows, place.lags)

    def own(self, family: Family) -> Sum:
        """The sums of a family's tensors on a device, shape (rows, tensors)."""
        if family not in self._own:
            self._own[family] = self.machine.zeros((family.rows, len(family.tensors)))
        return self._own[family]

    def band(self, pair: int, run: tuple[Stretch, ...]) -> NarrowBand | WideBand:
        """The sums of a run of consecutive lags of a pair."""
        key = id(run)  # alive for as long as the band
        if key not in self._bands:
            made = new_band(run, self.machine, self.plan.profile.band_block)
            self._held += made.nbytes
            if self._held > self._room:
                self._end_bands()
                self._held = made.nbytes
            self._bands[key] = pair, made
        return self._bands[key][1]

    def _end_bands(self) -> None:
        """Add the bands to the sums."""
        for number, band in self._bands.values():
            band.add_to(self.sums.bands[number].total)
        self._bands.clear()

    def conclude(self) -> Sums:
        """The sums as NumPy arrays, once all tiles are done."""
        self._end_bands()
        sums = self.sums.on_host()
        for family, values in self._own.items():
            family.hand_over(np.asarray(values.cpu()), self.plan, sums)
        return sums

    @property
    def nbytes(self) -> int:
        """Bytes held of sums."""
        own = sum(int(values.nbytes) for values in self._own.values())
        return self.sums.nbytes + own + sum(band.nbytes for _, band in self._bands.values())
