"""Where rows lie while a piece of a tile is read and multiplied: in a frame that fits the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from trajfile.containers.stored import ROW, STREAM, Reads
from trajfile.dtypes import numpy_dtype
from trajfile.engine.arena import Arena
from trajfile.engine.blocks import Block
from trajfile.engine.phases import Phases
from trajfile.engine.rows import Index

#: Bytes of a frame: with what another worker holds it stays in the last cache they share.
FRAME_BYTES = 9 * 2**19
#: Columns of a piece are a multiple of the first, what the kernels take at a time; if there is
#: no room for so many, of the second.
UNIT, LEAST_UNIT = 1024, 64
#: Rows lie an odd number of cache lines apart, so that they do not all compete for one cache set.
_LINE = 64


@dataclass(frozen=True)
class Slots:
    """Where rows lie within a frame.

    Attributes:
        start: First byte of the first one.
        stride: How many bytes the next one is from it.
        count: How many there is room for.
    """

    start: int
    stride: int
    count: int


@dataclass(frozen=True, eq=False)
class Frame:
    """Room for some columns of the rows that a program wants at a time.

    Attributes:
        phases: In which they are read.
        columns: Columns of a piece.
        nbytes: Bytes of the frame.
        rows: Where recorded rows of each stream lie.
        dtypes: What they are.
        formed: Where formed rows lie, float32.
        reads: What is read, phase after phase, and where it goes.
        cuts: Phase p reads rows [cuts[p], cuts[p + 1]) of those.
    """

    phases: Phases
    columns: int
    nbytes: int
    rows: Mapping[str, Slots]
    dtypes: Mapping[str, str]
    formed: Slots
    reads: Reads
    cuts: Index

    def read_in(self, phase: int) -> Reads:
        """What is read in a phase, and where it goes."""
        return self.reads[self.cuts[phase] : self.cuts[phase + 1]]

    def held(self, stream: str, columns: int, arena: Arena, begin: int) -> NDArray[np.generic]:
        """The rows of a stream that are in the frame now.

        Args:
            stream: The stream.
            columns: How many columns a piece has.
            arena: Where the frame is.
            begin: The first byte there.

        Returns:
            Shape (slots, columns), in the recorded dtype.
        """
        place, dtype = self.rows[stream], numpy_dtype(self.dtypes[stream])
        first = begin + place.start
        flat = arena.view(np.uint8)[first : first + place.count * place.stride].view(dtype)
        return as_strided(flat, (place.count, columns), (place.stride, dtype.itemsize))


def make_frame(
    phases: Phases, block: Block, dtypes: Mapping[str, str], formed: int, room: int, widest: int
) -> Frame | None:
    """Room for as many columns as fit.

    Args:
        phases: The program in phases.
        block: The block it is for.
        dtypes: For each stream that is read its dtype.
        formed: How many formed rows are held at a time.
        room: Bytes that the frame may take; it takes `FRAME_BYTES` at most.
        widest: Columns that a piece can have at most.

    Returns:
        The frame; None where there is no room for even a few columns.
    """
    items = {stream: numpy_dtype(dtype).itemsize for stream, dtype in dtypes.items()}
    # A cache line more for each row: see `_LINE`.
    free = min(room, FRAME_BYTES) - _LINE * (sum(phases.slots.values()) + formed)
    columns = free // (sum(phases.slots[s] * item for s, item in items.items()) + 4 * formed)
    columns = min(columns, -(-widest // UNIT) * UNIT)
    columns = columns // UNIT * UNIT or columns // LEAST_UNIT * LEAST_UNIT
    if columns <= 0:
        return None
    end = 0

    def place(count: int, item: int) -> Slots:
        nonlocal end
        rows = Slots(end, columns * item // _LINE * _LINE + _LINE, count)
        end += rows.stride * count
        return rows

    rows = {stream: place(phases.slots[stream], item) for stream, item in items.items()}
    made = place(formed, 4)
    reads = phases.order
    into = np.empty(len(reads), np.int64)
    for stream, number in block.numbers.items():
        if stream in rows:
            own = reads[:, STREAM] == number
            slots = phases.slot[stream][reads[own, ROW]]
            into[own] = rows[stream].start + slots * rows[stream].stride
    return Frame(
        phases=phases,
        columns=columns,
        nbytes=end,
        rows=rows,
        dtypes=dtypes,
        formed=made,
        reads=np.column_stack([reads, into]),
        cuts=np.minimum(np.arange(len(phases.cuts)) * phases.rows, len(reads)),
    )
