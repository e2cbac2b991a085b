"""Tiles that are never held: workers read them piece by piece, and each piece stays in the cache.

A staged tile is written to memory by who reads it and fetched from there by who multiplies. Where
chunks lie in a file as they are, a worker reads a few columns of every row of a tile by itself,
few enough to stay in its share of the cache, sums them up for the checksums, and multiplies them.
When all columns of a tile were read its checksums are known, and nothing is concluded before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from trajfile.containers.base import Container, Plain
from trajfile.containers.stored import Pieces, Placed, Sums
from trajfile.dtypes import ITEM_SIZES, numpy_dtype
from trajfile.engine.arena import Arena
from trajfile.engine.blocks import Block
from trajfile.engine.columns import FUSED
from trajfile.engine.rows import Index
from trajfile.engine.staging import Part
from trajfile.stopwatch import at

#: Bytes of a piece: with what another worker holds it stays in the last cache they share.
PIECE_BYTES = 9 * 2**19
#: Columns of a piece are a multiple of the first, what the kernels take at a time; if there is
#: no room for so many, of the second.
UNIT, LEAST_UNIT = 1024, 64
#: Bytes of a row that are worth a call of the system.
LEAST_BYTES = 2**11
#: Up to so many bytes of a tile, whole chunks pass through memory sooner if less than the second is
#: read of a row at a time; of larger tiles, two would take much memory.
SMALL_BYTES, SMALL_LEAST_BYTES = 2**27, 2**14
#: Rows lie an odd number of cache lines apart, so that they do not all compete for one cache set.
_LINE = 64


class UnreadError(Exception):
    """A piece of a tile cannot be read: why, reading the tile whole will say."""


@dataclass(frozen=True)
class Rows:
    """Where the rows of a stream lie within a piece.

    Attributes:
        start: First byte of the first row.
        stride: How many bytes the next row is from it.
        count: How many rows.
    """

    start: int
    stride: int
    count: int


@dataclass(frozen=True, eq=False)
class Direct:
    """How a tile is read piece by piece.

    Attributes:
        pieces: What reads and verifies.
        rows: For each stream where its rows lie within a piece.
        columns: Columns of a piece.
        nbytes: Bytes of a piece.
        bytes_read: Recorded bytes of the tile.
        sums: Over all columns that were read by now.
    """

    pieces: Pieces
    rows: Mapping[str, Rows]
    columns: int
    nbytes: int
    bytes_read: int
    sums: Sums
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def cut(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Pieces that make up some columns."""
        for first in range(start, stop, self.columns):
            yield first, min(first + self.columns, stop)

    def fetch(self, columns: tuple[int, int], arena: Arena, begin: int, sums: Sums) -> None:
        """Read a piece, and add it to sums.

        Args:
            columns: Its columns; those of a stream lie in one part.
            arena: Where the piece goes.
            begin: The first byte there.
            sums: Those of the thread.

        Raises:
            UnreadError: If it cannot be read.
        """
        with at("read"):
            if not self.pieces.fetch(*columns, arena.view(np.uint8), begin):
                raise UnreadError
        with at("verify"):
            self.pieces.add(*columns, arena.view(np.uint16), begin, sums)

    def values(
        self, part: Part, columns: tuple[int, int], arena: Arena, begin: int
    ) -> NDArray[np.generic]:
        """The rows of a part within a piece that was read, shape (rows, columns)."""
        place, dtype = self.rows[part.stream], numpy_dtype(part.run.lane)
        first = begin + place.start
        flat = arena.view(np.uint8)[first : first + place.count * place.stride].view(dtype)
        shape = place.count, columns[1] - columns[0]
        return as_strided(flat, shape, (place.stride, dtype.itemsize))

    def add(self, sums: Sums) -> None:
        """Add the sums over some of the columns."""
        with self._lock:
            self.sums[...] += sums

    def holds(self) -> bool:
        """Whether every checksum does, once the sums over all columns were added."""
        with at("verify"):
            return self.pieces.holds(self.sums)


def direct(
    container: Container,
    parts: tuple[Part, ...],
    block: Block,
    recorded: Mapping[str, Index],
    widest: int,
    room: int,
) -> Direct | None:
    """How a tile is read piece by piece, if it can be and it is worth while.

    Args:
        container: Where from.
        parts: What.
        block: Its time block.
        recorded: For each stream the recorded row of each selected row.
        widest: Columns that a piece can have on average, at most.
        room: Bytes that a piece may take.

    Returns:
        None where the tile is to be read whole.
    """
    parts = tuple(part for part in parts if part.rows)
    if not isinstance(container, Plain) or block.samples or not parts:
        return None
    if not {part.run.lane for part in parts} <= FUSED:
        return None
    items: dict[str, int] = {}
    for part in parts:
        items[part.stream] = max(items.get(part.stream, 0), ITEM_SIZES[part.run.lane])
    counts = {part.stream: part.rows for part in parts}
    # A cache line more for each row: see `_LINE`.
    free = min(room, PIECE_BYTES) - _LINE * sum(counts.values())
    columns = free // sum(items[stream] * counts[stream] for stream in items)
    columns = columns // UNIT * UNIT or columns // LEAST_UNIT * LEAST_UNIT
    size = sum(part.rows * part.run.row_bytes for part in parts)
    least = SMALL_LEAST_BYTES if size <= SMALL_BYTES else LEAST_BYTES
    if min(columns, widest) * min(items.values()) < least:
        return None
    rows, end = {}, 0
    for stream, item in items.items():
        rows[stream] = Rows(end, columns * item // _LINE * _LINE + _LINE, counts[stream])
        end += rows[stream].stride * counts[stream]
    placed = []
    for part in parts:
        run, place = part.run, rows[part.stream]
        found = container.stored(
            part.stream,
            run.lane,
            recorded[part.stream][block.staged[part.stream]],
            slice(run.lane_start, run.lane_start + run.stop - run.start),
        )
        if found is None:
            return None
        placed.append(Placed(found, run.start, run.stop, place.start, place.stride))
    pieces = Pieces(placed)
    pieces.announce()
    return Direct(pieces, rows, columns, end, size, pieces.no_sums())
