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
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajfile.containers import checksum

#: Functions of the C library that the compiled loops call by name.
_CALLED = ("pread", "preadv2", "posix_fadvise")
#: Of the chunks that a block touches at most so much more is read than the block, as a share of it.
_BESIDE = 8

Sums = NDArray[np.uint64]


class Span(NamedTuple):
    """What some bytes of a block's rows are of one chunk of each row.

    Attributes:
        chunk: The chunk's number within the block.
        skip: The first byte in the chunk.
        count: How many.
        at: How many bytes of the range lie ahead of them.
    """

    chunk: int
    skip: int
    count: int
    at: int


@dataclass(frozen=True, eq=False)
class Stored:
    """Where the chunks of a block lie: uncompressed, each with Fletcher's checksum behind it.

    Attributes:
        descriptor: The file, open.
        places: Address of each chunk, int64, shape (chunks, rows), contiguous.
        width: Bytes of a chunk, even, without its checksum.
        first: Byte of the first chunk at which the block begins.
        size: Bytes of a row of the block, even.
    """

    descriptor: int
    places: NDArray[np.int64]
    width: int
    first: int
    size: int

    def spans(self, start: int, stop: int) -> Iterator[Span]:
        """The chunks that make up bytes [start, stop) of the block's rows."""
        begin, end = self.first + start, self.first + stop
        for chunk in range(begin // self.width, -(-end // self.width)):
            a, b = max(begin, chunk * self.width), min(end, (chunk + 1) * self.width)
            yield Span(chunk, a - chunk * self.width, b - a, a - begin)

    def no_sums(self) -> Sums:
        """Sums over nothing yet, shape (2, chunks, rows)."""
        return np.zeros((2, *self.places.shape), np.uint64)

    def fetch(self, start: int, stop: int, memory: NDArray[Any], at: int, stride: int) -> bool:
        """Read bytes [start, stop) of each row.

        Args:
            start: First byte, even.
            stop: Byte after the last, even.
            memory: uint8, of one dimension.
            at: Where in it the first row goes.
            stride: How far the next row is from it.

        Returns:
            Whether the file holds them; False also if the system cannot read it.
        """
        rows = self.places.shape[1]
        assert 0 <= at <= at + (rows - 1) * stride + stop - start <= len(memory)
        return all(
            _kernels().fetch(
                *(self.descriptor, self.places[span.chunk], span.skip, span.count),
                *(memory, at + span.at, stride),
            )
            < 0
            for span in self.spans(start, stop)
        )

    def add(
        self, start: int, stop: int, words: NDArray[Any], at: int, stride: int, sums: Sums
    ) -> None:
        """Add what was fetched to sums.

        Args:
            start: As in `fetch`.
            stop: As in `fetch`.
            words: The memory as uint16.
            at: As in `fetch`, even.
            stride: As in `fetch`, even.
            sums: Of `no_sums`.
        """
        for span in self.spans(start, stop):
            after = self.width - span.skip - span.count
            _kernels().add(
                *(words, (at + span.at) // 2, stride // 2, span.count // 2, after // 2),
                *(sums[0, span.chunk], sums[1, span.chunk]),
            )

    def holds(self, sums: Sums) -> bool:
        """Whether all chunks match their checksums.

        Args:
            sums: Over all bytes of the block, each once.

        Returns:
            False also if one cannot be read.
        """
        return all(
            _kernels().settle(
                *(self.descriptor, self.places[span.chunk]),
                *(span.skip, span.skip + span.count, self.width),
                *(sums[0, span.chunk], sums[1, span.chunk]),
            )
            < 0
            for span in self.spans(0, self.size)
        )

    def announce(self) -> None:
        """Have the system read ahead what it does not hold yet: pieces are small and scattered."""
        # In the order in which they lie in the file.
        addresses = np.ascontiguousarray(self.places.T).reshape(-1)
        _kernels().announce(self.descriptor, addresses, self.width + 4)


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
    if not _possible():
        return None
    chunks = np.ascontiguousarray(places.T)
    return Stored(descriptor, chunks, width, start % width, stop - start)


def _possible() -> bool:
    """Whether the compiled loops can be used; loads them."""
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
