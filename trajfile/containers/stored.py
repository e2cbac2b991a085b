"""Chunks that lie in a file as they are, but for a checksum behind each, read piece by piece.

Who reads a block whole passes it through memory on its way to the processor. A piece of each of its
rows, small enough together, stays in the cache: it is read, summed up for the checksums and worked
on there. Sums of pieces make up those of the chunks, which are held against what is stored when
all pieces were read.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajfile.containers import checksum

#: Functions of the C library that the compiled loops call by name.
_CALLED = ("pread", "preadv2", "posix_fadvise", "clock_gettime")
#: Of the chunks that a block touches at most so much more is read than the block, as a share of it.
_BESIDE = 8

Sums = NDArray[np.uint64]
#: Rows to be read, int64, shape (rows, 3): the number of a stream, a row of its blocks, and the
#: byte of a piece, even, where the row goes.
Reads = NDArray[np.int64]
STREAM, ROW, INTO = range(3)


@dataclass(frozen=True, eq=False)
class Stored:
    """Where the chunks of a block lie: uncompressed, each with Fletcher's checksum behind it.

    Attributes:
        descriptor: The file, open.
        places: Address of each chunk, int64, shape (chunks, rows), contiguous.
        width: Bytes of a chunk, even, without its checksum.
        first: Byte of the first chunk with which the block begins.
        size: Bytes of a row of the block, even.
    """

    descriptor: int
    places: NDArray[np.int64]
    width: int
    first: int
    size: int

    def announce(self) -> None:
        """Have the system read ahead what it does not hold yet: pieces are small and scattered."""
        # In the order in which they lie in the file.
        addresses = np.ascontiguousarray(self.places.T).reshape(-1)
        announce(self.descriptor, addresses, self.width + 4)

    def holds(self, low: Sums, high: Sums) -> bool:
        """Hold sums over all bytes of the block against the checksums, with what lies beside it.

        Args:
            low: First sum of each chunk, uint64, as `places`.
            high: Second sum of each.

        Returns:
            Whether all match; False also if one cannot be read.
        """
        for number, places in enumerate(self.places):
            start = max(self.first, number * self.width) - number * self.width
            stop = min(self.first + self.size - number * self.width, self.width)
            failed = _kernels().settle(
                self.descriptor, places, start, stop, self.width, low[number], high[number]
            )
            if failed >= 0:
                return False
        return True


class Placed(NamedTuple):
    """A block, and what it holds.

    Attributes:
        block: Where it lies.
        stream: The number of its stream, as what is to be read names it.
        start: The first column that it holds, of those that pieces are cut from.
        stop: Column after the last.
    """

    block: Stored
    stream: int
    start: int
    stop: int


class Pieces:
    """Blocks of rows that are read together, a few columns of all of them at a time.

    Compiled loops read them (`trajfile.containers.kernels_read`), by several threads if need be,
    each with memory and sums of its own.

    Args:
        placed: The blocks.

    Attributes:
        placed: The same.
        table: What the loops must know of the blocks.
        places: Address of each chunk, those of a block one after another.
    """

    def __init__(self, placed: Iterable[Placed]) -> None:
        self.placed = tuple(placed)
        self._ends = np.cumsum([0, *(of.block.places.size for of in self.placed)])
        self.places = np.concatenate([of.block.places.reshape(-1) for of in self.placed])
        self.table = np.array(
            [
                (
                    *(block.descriptor, stream, start, stop, block.size // (stop - start)),
                    *(block.first, block.width, block.places.shape[1], end),
                )
                for (block, stream, start, stop), end in zip(self.placed, self._ends, strict=False)
            ],
            np.int64,
        )

    def no_sums(self) -> Sums:
        """Both sums of every chunk over nothing yet, uint64, shape (2, chunks)."""
        return np.zeros((2, len(self.places)), np.uint64)

    def holds(self, sums: Sums) -> bool:
        """Whether all chunks match their checksums, given sums over all columns of all blocks."""
        for number, (block, *_) in enumerate(self.placed):
            part = sums[:, self._ends[number] : self._ends[number + 1]]
            if not block.holds(*part.reshape(2, *block.places.shape)):
                return False
        return True

    def announce(self) -> None:
        """Have the system read ahead."""
        for of in self.placed:
            of.block.announce()


def stored(
    descriptor: int, places: NDArray[np.int64], width: int, start: int, stop: int
) -> Stored | None:
    """Chunks to be read piece by piece, if they can be and it is worth while.

    Args:
        descriptor: The file.
        places: Address of each chunk that bytes [start, stop) of the rows touch, int64, shape
            (rows, chunks).
        width: Bytes of a chunk, without its checksum.
        start: First byte of the rows.
        stop: Byte after the last.

    Returns:
        None where it is not: without a compiler, on some systems, or if much of the chunks lies
        beside the block and is to be read for the checksums alone.
    """
    beside = places.shape[1] * width - (stop - start)
    if width % 2 or start % 2 or stop % 2 or beside * _BESIDE > stop - start:
        return None
    if not compiled_reading():
        return None
    chunks = np.ascontiguousarray(places.T)
    return Stored(descriptor, chunks, width, start % width, stop - start)


def announce(descriptor: int, places: NDArray[np.int64], size: int) -> None:
    """Have the system read ahead what it does not hold of chunks, where it can be asked.

    Args:
        descriptor: The file.
        places: Address of each, int64, shape (chunks,), contiguous, in the order of the file.
        size: Bytes of each.
    """
    if compiled_reading():
        _kernels().announce(descriptor, places, size)


def compiled_reading() -> bool:
    """Whether compiled loops can read files; loads them."""
    return checksum.compiled() and _kernels() is not None


@cache
def _kernels() -> Any:
    if sys.platform != "linux" or sys.maxsize < 2**32 or not hasattr(os, "RWF_NOWAIT"):
        return None
    try:
        library = ctypes.CDLL(None)  # a name that is not there would end the process
        if not all(hasattr(library, name) for name in _CALLED):
            return None
        from trajfile.containers import kernels_read
    except (ImportError, OSError):
        return None
    return kernels_read
