"""The shape of the tiles: how wide the strips, how long the blocks, within how much memory.

Strips as wide as the stored chunks come first (a chunk is then decoded and verified once), few
blocks second (carried rows are copied from each block to the next).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from trajfile.dtypes import ITEM_SIZES
from trajfile.engine.blocks import partition, rows_per_unit, step_units
from trajfile.engine.budget import format_bytes
from trajfile.engine.columns import placed_tensors, staged_dtype
from trajfile.engine.header import Header
from trajfile.engine.rows import Index, RowNeeds
from trajfile.errors import ResourceError
from trajfile.schema import GRADIENT_SAMPLES

#: No tile is made larger than this, whatever the budget: beyond it nothing is gained.
TILE_BYTES = 2**29
#: Narrow chunks are joined into strips until a tile has about this size.
JOINED_BYTES = 2**27
#: Most rows that are held at a time: in float64 more would leave room for few columns in the cache,
#: and of fewer, what a block costs by itself shows.
WINDOW_ROWS = 8192
#: Tiles up to this size may hold twice as many: of them, what a block costs by itself is much.
SMALL_TILE_BYTES = 2**26
#: Fewest columns worth multiplying at a time.
LEAST_COLUMNS = 16
#: From this many consecutive lags on, products are formed by dense blocks of rows.
WIDE_BAND = 24
#: Rows of such a block on the processor.
BAND_BLOCK = 16
#: Bytes a column of the indices by which a device adds products up tensor by tensor, at most: of
#: tensors of nine elements.
INDEX_BYTES = 48
#: Each part of a tile starts at a multiple of this many bytes.
ALIGNMENT = 64


@dataclass(frozen=True)
class Profile:
    """What the plan must know of the device.

    Attributes:
        device: ``cpu`` or ``cuda:0`` ...
        workers: How many threads multiply, each with its own scratch and sums.
        slots: How many tiles are held: two in host memory, and two on a device of its own.
        scratch: Bytes of float64 scratch per worker that suit its cache.
        single_above: A pass over more elements than this multiplies in float32 what is recorded
            in no more. Infinite where float64 never holds up the reading.
        lanes: Into how many shares, each with sums of its own, columns are divided at most. It
            does not depend on the number of workers, and so the sums do not.
        batched: Whether it is to be asked for few operations, each on much: products of many rows
            are formed before any are summed, in scratch memory set aside for them.
        band_block: Rows of a block, where products at many consecutive lags are dense blocks.
    """

    device: str
    workers: int
    slots: int
    scratch: int
    single_above: float = math.inf
    lanes: int = 8
    batched: bool = False
    band_block: int = BAND_BLOCK


@dataclass(frozen=True)
class Layout:
    """Where the selected rows lie and how lanes are stored.

    Attributes:
        rows: For each stream the recorded row of each selected row, int64.
        chunk_columns: Width of a stored chunk of a stream's lane.
    """

    rows: Mapping[str, Index]
    chunk_columns: Callable[[str, str], int]


@dataclass(frozen=True, eq=False)
class Shape:
    """A choice of tiles.

    Attributes:
        width: Most columns of a strip.
        cuts: Where `units` is cut into blocks.
        units: The steps at which anything is read.
        columns: Most columns that a worker multiplies at a time.
        scratch: Bytes of all workers' float64 scratch.
        cost: Chunks decoded and rows copied, relative to once and never.
    """

    width: int
    cuts: list[int]
    units: Index
    columns: int
    scratch: int
    cost: float


def index_bytes(profile: Profile) -> int:
    """Bytes of indices for each column of a strip, and each worker."""
    return INDEX_BYTES * profile.workers if profile.batched else 0


class Shaper:
    """Weighs strip widths and block lengths against the memory there is."""

    def __init__(
        self,
        header: Header,
        rows: RowNeeds,
        layout: Layout,
        profile: Profile,
        available: int,
        budget: int,
        lanes: int,
    ) -> None:
        self.rows, self.profile, self.available, self.budget = rows, profile, available, budget
        self.lanes = lanes
        self.units = step_units(header, rows)
        counts = rows_per_unit(header, rows, self.units)
        sizes: dict[str, int] = {}
        self.total, self.chunk, self.pieces = 0, 1, 0
        for tensor in placed_tensors(header, rows):
            self.total += tensor.spec.size
            self.pieces += len(tensor.specs)
            self.chunk = max(self.chunk, layout.chunk_columns(tensor.leader, tensor.spec.dtype))
            for stream, spec in tensor.specs.items():
                sizes[stream] = max(sizes.get(stream, 0), ITEM_SIZES[staged_dtype(spec.dtype)])
        self.chunk = max(1, min(self.chunk, self.total))
        zero = np.zeros(len(self.units), np.int64)
        per_unit = sum((counts[s] * size for s, size in sizes.items()), start=zero)
        self.bytes_before = np.concatenate([[0], np.cumsum(per_unit)])
        self.reference_bytes = sum(sizes.get(stream, 0) for stream, _ in rows.references)
        # A row of a track is held once as it is, and once more for each form derived from it.
        track_unit = [
            np.bincount(
                np.searchsorted(self.units, header.steps[t.stream][t.positions]),
                minlength=len(self.units),
            )
            for t in rows.tracks
        ]
        self.held_as = [1] * len(rows.tracks)
        for sequence in rows.sequences:
            self.held_as[sequence.track] += sequence.form != "value"
        weighted = sum(
            (unit * n for unit, n in zip(track_unit, self.held_as, strict=True)), start=zero
        )
        self.rows_before = np.concatenate([[0], np.cumsum(weighted)])
        self.products = 0  # rows of products that are summed tensor by tensor
        if profile.batched:
            self.products = sum(
                len(rows.tracks[rows.sequences[pair.left].track].positions) * len(pair.tensor_lags)
                for pair in rows.pairs
            )
        self.carries = [rows.carry(track) for track in range(len(rows.tracks))]
        sampled = counts.get(GRADIENT_SAMPLES, zero) if rows.samples else zero
        # Beside the samples and their mean, a margin for windows that reach beyond a sequence.
        self.fixed_rows = int(sampled.max(initial=0)) + 1 + 2 * WIDE_BAND

    def best(self) -> Shape:
        """The cheapest shape that fits.

        Returns:
            The shape; the widest of several equally cheap ones.

        Raises:
            ResourceError: If none fits.
        """
        if not self.total or not len(self.units):
            return Shape(1, [0, len(self.units)], self.units, 1, 0, 0.0)
        shapes = [shape for width in self.widths() if (shape := self.shape(width))]
        if not shapes:
            needed = self.budget - self.available + self._least()
            raise ResourceError(
                f"the smallest possible pass takes {format_bytes(needed)} of memory, "
                f"but only {format_bytes(self.budget)} may be used; allow more memory, or select "
                "fewer steps or tensors.",
                needed=needed,
                available=self.budget,
            )
        return min(shapes, key=lambda shape: shape.cost)

    def widths(self) -> list[int]:
        """Strip widths to try, widest first: joined chunks, one chunk, parts of one."""
        row_bytes = max(1, int(self.bytes_before[-1]))
        joined = max(1, JOINED_BYTES // row_bytes // self.chunk) * self.chunk
        widths = []
        width = min(joined, self.total)
        while True:
            widths.append(width)
            if width <= min(LEAST_COLUMNS, self.chunk):
                return widths
            width = -(-width // 2)

    def window(self, start: int, stop: int, *, carried: bool) -> int:
        """Rows in float64 that a worker holds for units [start, stop)."""
        new = int(self.rows_before[stop] - self.rows_before[start])
        carry = sum(c * n for c, n in zip(self.carries, self.held_as, strict=True))
        return new + self.fixed_rows + (carry if carried else 0)

    def tile(self, width: int, start: int, stop: int) -> int:
        """Bytes of a tile of units [start, stop)."""
        new = int(self.bytes_before[stop] - self.bytes_before[start])
        return width * (new + (self.reference_bytes if start == 0 else 0)) + ALIGNMENT * self.pieces

    def scratch(self, columns: int, window: int) -> int:
        """Bytes of all workers' float64 rows, if there were one for each lane."""
        return max(self.lanes, self.profile.workers) * columns * window * 8

    def held(self, width: int, *, carried: bool) -> int:
        """Bytes of what outlives a block: rows, and a device's indices."""
        rows = len(self.rows.references) + (sum(self.carries) if carried else 0)
        return width * (8 * rows + index_bytes(self.profile))

    def shape(self, width: int) -> Shape | None:
        """The shape for one width: one block if it fits, else several; None if neither does."""
        for carried in (False, True):
            room = self.available - self.held(width, carried=carried)

            def weight(start: int, stop: int, room: int = room, carried: bool = carried) -> float:
                window = self.window(start, stop, carried=carried)
                left = room - self.scratch(min(width, LEAST_COLUMNS), window)
                if left <= 0:
                    return np.inf
                tile = self.tile(width, start, stop)
                # What is no larger than one step cannot be cut further, only fail to fit.
                whole = 0.0
                if stop > start + 1:
                    small = max(window / 2, WINDOW_ROWS * tile / SMALL_TILE_BYTES)
                    whole = max(tile / TILE_BYTES, min(window, small) / WINDOW_ROWS)
                return max(tile * self.profile.slots / left, whole)

            cuts = partition(weight, len(self.units))
            if cuts is not None and (carried or len(cuts) == 2):
                return self._conclude(width, cuts, room, carried=carried)
        return None

    def _conclude(self, width: int, cuts: list[int], room: int, *, carried: bool) -> Shape:
        spans = list(pairwise(cuts))
        window = max(self.window(*span, carried=carried) for span in spans)
        left = room - self.profile.slots * max(self.tile(width, *span) for span in spans)
        free = min(self.profile.scratch, left // max(self.lanes, self.profile.workers)) // 8
        rows = window + min(self.products + self.products // 8, window + window // 2)
        columns = max(min(width, LEAST_COLUMNS), min(width, free // rows))
        again = sum(self.carries) * (len(cuts) - 2) / max(1, int(self.rows_before[-1]))
        cost = max(1.0, self.chunk / width) + again
        scratch = self.profile.workers * columns * max(window, min(rows, free // columns)) * 8
        return Shape(width, cuts, self.units, columns, scratch, cost)

    def _least(self) -> int:
        """Bytes of tiles, carry and scratch for the narrowest strips, one step at a time."""
        width = min(LEAST_COLUMNS, self.chunk)
        return self.held(width, carried=True) + max(
            self.tile(width, unit, unit + 1) * self.profile.slots
            + self.scratch(width, self.window(unit, unit + 1, carried=True))
            for unit in range(len(self.units))
        )
