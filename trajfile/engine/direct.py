"""Tiles that are never held: workers read them piece by piece, and each piece stays in the cache.

A staged tile is written to memory by who reads it and fetched from there by who multiplies. Where
chunks lie in a file as they are, a worker reads a few columns of every row of a tile by itself,
some rows at a time (`trajfile.engine.phases`), few enough to stay in its share of the cache, sums
them up for the checksums, and multiplies them.
When all columns of a tile were read its checksums are known, and nothing is concluded before.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from trajfile.containers.base import Container, Plain
from trajfile.containers.stored import Pieces, Placed, Sums
from trajfile.dtypes import ITEM_SIZES
from trajfile.engine.blocks import Block
from trajfile.engine.columns import FUSED
from trajfile.engine.rows import Index
from trajfile.engine.staging import Part
from trajfile.stopwatch import at

#: Bytes of a row that are worth a call of the system; where there is room for fewer, whole chunks
#: pass through memory sooner.
LEAST_BYTES = 2**13


class UnreadError(Exception):
    """A piece of a tile cannot be read: why, reading the tile whole will say."""


@dataclass(frozen=True, eq=False)
class Direct:
    """How a tile is read piece by piece.

    Attributes:
        pieces: What reads and verifies.
        bytes_read: Recorded bytes of the tile.
        sums: Over all columns that were read by now.
    """

    pieces: Pieces
    bytes_read: int
    sums: Sums
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def add(self, sums: Sums) -> None:
        """Add the sums over some of the columns."""
        with self._lock:
            self.sums[...] += sums

    def holds(self) -> bool:
        """Whether every checksum does, once the sums over all columns were added."""
        with at("verify"):
            return self.pieces.holds(self.sums)


def readable(container: Container, parts: tuple[Part, ...], block: Block) -> bool:
    """Whether a tile is of a kind that can be read piece by piece.

    Args:
        container: Where from.
        parts: What.
        block: Its time block.

    Returns:
        False where it is to be read whole.
    """
    lanes = {part.run.lane for part in parts if part.rows}
    return isinstance(container, Plain) and not block.samples and bool(lanes) and lanes <= FUSED


def worth_while(parts: tuple[Part, ...], columns: int) -> bool:
    """Whether as much of a row is read at a time as it takes.

    Args:
        parts: What is read.
        columns: How many columns of it are read at a time, on average.

    Returns:
        False where whole chunks pass through memory sooner.
    """
    return columns * min(ITEM_SIZES[part.run.lane] for part in parts if part.rows) >= LEAST_BYTES


def direct(
    container: Container, parts: tuple[Part, ...], block: Block, recorded: Mapping[str, Index]
) -> Direct | None:
    """How a tile is read piece by piece.

    Args:
        container: Where from.
        parts: What; it is `readable`.
        block: Its time block.
        recorded: For each stream the recorded row of each selected row.

    Returns:
        None where its chunks do not lie plainly in a file.
    """
    if not isinstance(container, Plain):
        return None
    placed, size = [], 0
    for part in parts:
        if not part.rows:
            continue
        run = part.run
        found = container.stored(
            part.stream,
            run.lane,
            recorded[part.stream][block.staged[part.stream]],
            slice(run.lane_start, run.lane_start + run.stop - run.start),
        )
        if found is None:
            return None
        placed.append(Placed(found, block.numbers[part.stream], run.start, run.stop))
        size += part.rows * run.row_bytes
    pieces = Pieces(placed)
    return Direct(pieces, size, pieces.no_sums())
