"""Memory for much data at once, in large pages, and rows of it that are used again.

The system hands out memory page by page, at the first touch, and clears each page: for a row of
some 40 MB that takes longer than copying it.
"""

from __future__ import annotations

import mmap
import threading
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

#: Less than one large page comes from the allocator.
_LARGE = 2**21
#: Pieces up to a size are cut from larger memory, that many at most, of so many sizes.
_SMALL, _WHOLE, _PIECES, _SIZES = 2**18, 2**23, 512, 4


def cleared(size: int) -> Bytes:
    """Bytes, all zero, in large pages where the system has them.

    Args:
        size: How many.

    Returns:
        uint8, shape (size,).
    """
    if size < _LARGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.zeros(size, np.uint8)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # not built into every kernel
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


class Pool:
    """Memory that goes back and forth between who fills it and who writes it.

    Free memory and memory in use stay below the limit together, unless one lease alone is larger.

    Args:
        limit: Bytes; at 0 nothing is kept.
    """

    def __init__(self, limit: int = 0):
        self._limit = limit
        self._free: dict[int, list[Bytes]] = {}  # by size, the longest unused size first
        self._uncut: dict[int, list[Bytes]] = {}  # by size, pieces that nobody had yet
        self._used = self._kept = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes held, in use and free."""
        uncut = sum(size * len(pieces) for size, pieces in self._uncut.items())
        return self._used + self._kept + uncut

    def lease(self) -> Lease:
        """Memory for one purpose, given back together."""
        return Lease(self)

    def take(self, size: int) -> Bytes:
        """Some memory, with whatever in it.

        Args:
            size: How many bytes.

        Returns:
            uint8, shape (size,).
        """
        with self._lock:
            self._used += size
            if size in self._free:
                return self._drop(size)
            pieces = self._uncut.get(size, [])
            while not pieces and self.nbytes > self._limit and (self._free or self._uncut):
                if self._free:
                    self._drop(next(iter(self._free)))
                else:
                    self._uncut.popitem()
            if not pieces and 0 < size <= _SMALL and len({*self._uncut, size}) <= _SIZES:
                count = min(_PIECES, min(_WHOLE, self._limit - self.nbytes) // size)
                if count > 1:
                    pieces = self._uncut[size] = _cut(size, count)
            if pieces:
                return pieces.pop()
        return cleared(size)

    def _drop(self, size: int) -> Bytes:
        """Let go of a free piece of a size that there is."""
        pieces = self._free[size]
        piece = pieces.pop()
        self._kept -= size
        if not pieces:
            del self._free[size]
        return piece

    def give(self, pieces: list[Bytes]) -> None:
        """Take memory back; it is kept as long as there is room.

        Args:
            pieces: As `take` gave them.
        """
        with self._lock:
            for piece in pieces:
                self._used -= piece.nbytes
                if self.nbytes + piece.nbytes <= self._limit:
                    alike = self._free.pop(piece.nbytes, [])
                    alike.append(piece)
                    self._free[piece.nbytes] = alike  # now the last to be let go
                    self._kept += piece.nbytes


def _cut(size: int, count: int) -> list[Bytes]:
    """Pieces of memory side by side, in as few large pages as can be; the last comes first."""
    whole = cleared(size * count)
    return [whole[start : start + size] for start in reversed(range(0, len(whole), size))]


class Lease:
    """What was taken of a pool for one purpose.

    Args:
        pool: Where from.
    """

    def __init__(self, pool: Pool):
        self._pool = pool
        self._pieces: list[Bytes] = []

    def rows(self, count: int, columns: int, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Rows, with whatever in them.

        Args:
            count: How many.
            columns: How long.
            dtype: Of what.

        Returns:
            Shape (count, columns), contiguous.
        """
        piece = self._pool.take(count * columns * dtype.itemsize)
        self._pieces.append(piece)
        return piece.view(dtype).reshape(count, columns)

    def end(self) -> None:
        """Give everything back; what was made of it must not be used any more."""
        self._pool.give(self._pieces)
        self._pieces = []


def copy_at_once(source: NDArray[np.generic], target: memoryview) -> None:
    """Copy a few elements without letting go of the interpreter.

    NumPy lets another thread have it for every copy of more than a few hundred elements, and is
    then kept waiting for it, for longer than copying a few KiB takes.

    Args:
        source: Contiguous.
        target: As many bytes.
    """
    target[:] = source.reshape(-1).view(np.uint8).data
