"""Tensors whose products count alike, and where the sums of each lie while they are on a device.

All tensors of a family share the rows of one array, a column a tensor: products of many tensors
are added to it at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from trajfile.engine.columns import Region, Strip
from trajfile.engine.plan import Plan
from trajfile.engine.products import Sums, sample_counts
from trajfile.engine.rows import Index
from trajfile.engine.schedule import RegionWork, active_pairs
from trajfile.schema import GRADIENT_SAMPLES


@dataclass(eq=False)
class Family:
    """Tensors of which the same products are wanted.

    Attributes:
        pairs: For each pair with products per tensor its first row, rows and lags; a product of
            row i at the lag of column c is in the row ``first + i * lags + c``.
        rows: Rows of the array.
        traces: The first row of the parts in the traces of sample Grams; None without them.
        tensors: The column of each tensor, those of a region one after another.
        sampled: Whether any sample was met that holds them.
    """

    pairs: dict[int, tuple[int, int, int]]
    rows: int
    traces: int | None
    tensors: dict[str, int] = field(default_factory=dict)
    sampled: bool = False

    def targets(self, work: RegionWork) -> Index:
        """The rows of all products per tensor of a region during a block, in their order."""
        rows = [np.zeros(0, np.int64)]
        for pair in work.pairs:
            for column, stretch in pair.single:
                first, _, lags = self.pairs[pair.number]
                rows.append(first + column + lags * np.arange(stretch.start, stretch.stop))
        return np.concatenate(rows)

    def hand_over(self, values: np.ndarray, plan: Plan, sums: Sums) -> None:
        """Add the sums of all its tensors to others.

        Args:
            values: The sums, float64, shape (rows, tensors).
            plan: The plan.
            sums: To which they are added, NumPy arrays; it has none of these tensors yet.
        """
        together = values.sum(1)
        own = np.ascontiguousarray(values.T)
        for number, (first, rows, lags) in self.pairs.items():
            pair, band = plan.rows.pairs[number], sums.bands[number]
            stop = first + rows * lags
            columns = [pair.lags.index(lag) for lag in pair.tensor_lags]
            band.total[:, columns] += together[first:stop].reshape(rows, lags)
            for tensor, column in self.tensors.items():
                band.tensors[tensor] = own[column, first:stop].reshape(rows, lags)
        if self.traces is not None and self.sampled:
            for tensor, column in self.tensors.items():
                sums.traces[tensor] = own[column, self.traces :]


class Families:
    """All families of the tensors that some strips meet.

    Args:
        plan: The plan.
        strips: The strips, in any order.
    """

    def __init__(self, plan: Plan, strips: Iterable[Strip]) -> None:
        self._plan = plan
        self._found: dict[tuple[tuple[str, int], ...], Family] = {}
        place = {id(strip): number for number, strip in enumerate(plan.strips)}
        for strip in sorted(strips, key=lambda strip: place[id(strip)]):
            for region in strip.regions:
                tensors = self.of(region).tensors
                for piece in region.pieces:
                    tensors.setdefault(piece.tensor, len(tensors))

    def of(self, region: Region) -> Family:
        """The family of a region's tensors."""
        key = tuple(region.first_rows.items())
        if key not in self._found:
            self._found[key] = self._made(region)
        return self._found[key]

    def _made(self, region: Region) -> Family:
        plan, rows = self._plan, 0
        pairs = {}
        for active in active_pairs(plan, region):
            pair = plan.rows.pairs[active.number]
            if pair.tensor_lags and plan.per_tensor:
                track = plan.rows.sequences[pair.left].track
                size = len(plan.rows.tracks[track].positions)
                pairs[active.number] = rows, size, len(pair.tensor_lags)
                rows += size * len(pair.tensor_lags)
        traces = None
        if plan.per_tensor and plan.rows.samples and GRADIENT_SAMPLES in region.first_rows:
            traces, rows = rows, rows + len(sample_counts(plan))
        return Family(pairs, rows, traces)
