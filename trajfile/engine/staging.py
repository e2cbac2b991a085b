"""Staging: the rows of a tile, read into one reusable buffer on their way to the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Container
from trajfile.dtypes import numpy_dtype
from trajfile.engine.blocks import Block
from trajfile.engine.columns import Run, Strip, staged_dtype
from trajfile.engine.rows import Index
from trajfile.engine.sizes import align

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Part:
    """The rows of one run of a stream within a tile.

    Attributes:
        stream: The stream.
        run: Its columns.
        rows: How many rows.
        offset: First byte in the buffer.
    """

    stream: str
    run: Run
    rows: int
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes in the buffer."""
        return self.rows * self.run.staged_bytes

    def of(self, buffer: Bytes) -> NDArray[np.generic]:
        """The part of a filled buffer, shape (rows, columns of the run), in its staged dtype."""
        dtype = numpy_dtype(staged_dtype(self.run.lane))
        flat = buffer[self.offset : self.offset + self.nbytes]
        return flat.view(dtype).reshape(self.rows, self.run.stop - self.run.start)


def tile_parts(strip: Strip, block: Block) -> tuple[Part, ...]:
    """Where each part of a tile lies in its buffer; parts are aligned and do not overlap."""
    parts = []
    offset = 0
    for stream, runs in strip.runs.items():
        for run in runs:
            part = Part(stream, run, len(block.staged[stream]), offset)
            parts.append(part)
            offset += align(part.nbytes)
    return tuple(parts)


def read_tile(
    container: Container,
    parts: tuple[Part, ...],
    block: Block,
    recorded: Mapping[str, Index],
    buffer: Bytes,
) -> int:
    """Read a tile.

    Args:
        container: Where from.
        parts: What.
        block: Its time block.
        recorded: For each stream the recorded row of each selected row.
        buffer: Where to; every byte of every part is written.

    Returns:
        The number of recorded bytes read.

    Raises:
        Damaged: If a checksum fails or a committed chunk is missing.
    """
    count = 0
    for part in parts:
        run = part.run
        columns = slice(run.lane_start, run.lane_start + run.stop - run.start)
        raw_bytes = part.rows * run.row_bytes
        # Where the staged dtype is wider, the rows as recorded fill the end of the part first.
        end = part.offset + part.nbytes
        raw = buffer[end - raw_bytes : end].view(numpy_dtype(run.lane))
        raw = raw.reshape(part.rows, run.stop - run.start)
        rows = recorded[part.stream][block.staged[part.stream]]
        for start, stop in consecutive(rows):
            where = slice(int(rows[start]), int(rows[start]) + stop - start)
            container.read(part.stream, run.lane, where, columns, raw[start:stop])
        if part.nbytes != raw_bytes:
            _widen(raw, part.of(buffer))
        count += raw_bytes
    return count


def _widen(raw: NDArray[np.generic], staged: NDArray[np.generic]) -> None:
    """Convert row by row towards the front of the same memory.

    Row i is written no further than the end of raw row i, which has been taken by then.
    """
    for row in range(len(raw)):
        staged[row] = raw[row].astype(staged.dtype)


def consecutive(rows: Index) -> Iterator[tuple[int, int]]:
    """The stretches [start, stop) of an increasing index in which it grows by one."""
    cuts = np.flatnonzero(np.diff(rows) != 1) + 1
    bounds = [0, *cuts.tolist(), len(rows)]
    yield from ((a, b) for a, b in pairwise(bounds) if b > a)
