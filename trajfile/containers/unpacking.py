"""Reading many zstd chunks of an HDF5 file at once, by compiled loops.

Decoding one by one takes a dozen calls of Python a chunk, made under its lock, which as many
threads as there are wait for. The loops call the decoder that numcodecs brings by its C functions.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from trajfile.containers import checksum
from trajfile.containers.base import Array
from trajfile.containers.scratch import scratch
from trajfile.containers.stored import compiled_reading
from trajfile.stopwatch import at

#: Stored bytes of chunks that are taken at once: enough that calls don't count.
BATCH_BYTES = 2**19
#: Chunks are read to addresses that are multiples of it, with as much room behind each.
_APART = 64
#: A checksum lies behind each chunk; a larger one than twice its elements is none of ours.
_CHECKSUM_BYTES, _MOST = 4, 2

#: C functions of the decoder, by the name that the compiled loops know them by.
_FUNCTIONS = {
    "trajfile_zstd_declared": "ZSTD_getFrameContentSize",
    "trajfile_zstd_decode": "ZSTD_decompressDCtx",
}


@dataclass(frozen=True)
class Chunks:
    """Chunks that are compressed by zstd, and which rows of them go where.

    Attributes:
        places: Address and stored size of each chunk, int64, shape (chunks, 2).
        elements: Elements of a chunk.
        shuffled: Whether their bytes were shuffled before.
        rows: int64, shape (rows, 4), in the order of the chunks: the chunk, the first element of
            it that is wanted, how many are, and the element of `out` where they go.
        out: All memory that they go to, unsigned integers, of one dimension, contiguous.
    """

    places: NDArray[np.int64]
    elements: int
    shuffled: bool
    rows: NDArray[np.int64]
    out: Array

    @classmethod
    def of(
        cls,
        places: NDArray[np.int64],
        shape: tuple[int, int],
        rows: slice,
        columns: slice,
        out: Array,
        *,
        shuffled: bool,
    ) -> Chunks | None:
        """The chunks that a block touches.

        Args:
            places: Address and stored size of each chunk, in the order of their rows.
            shape: Rows and columns of a chunk.
            rows: Rows of the block.
            columns: Its columns.
            out: Where they go, unsigned integers, shape (rows, columns); a row is contiguous.
            shuffled: Whether the bytes of elements were shuffled.

        Returns:
            None if a size is not one that a chunk has.
        """
        height, width = shape
        sizes = places[:, 1]
        most = _MOST * height * width * out.itemsize + 2**10
        if (sizes < _CHECKSUM_BYTES).any() or (sizes > most).any():
            return None
        row = np.arange(rows.start, rows.stop)[:, None]
        across = np.arange(columns.start // width, (columns.stop - 1) // width + 1)
        start = np.maximum(across * width, columns.start)
        stop = np.minimum((across + 1) * width, columns.stop)
        stride = out.strides[0] // out.itemsize
        chunk = (row // height - rows.start // height) * len(across) + across - across[0]
        first = row % height * width + start - across * width
        into = (row - rows.start) * stride + start - columns.start
        table = np.stack(np.broadcast_arrays(chunk, first, stop - start, into), -1).reshape(-1, 4)
        table = table[np.argsort(table[:, 0], kind="stable")]
        memory = as_strided(out, ((len(out) - 1) * stride + out.shape[1],), (out.itemsize,))
        return cls(places, height * width, shuffled, table, memory)

    def batches(self) -> Iterator[slice]:
        """Chunks that are taken at once."""
        ends = np.cumsum(self.places[:, 1])
        cuts = np.flatnonzero(np.diff(ends // BATCH_BYTES)) + 1
        yield from (slice(a, b) for a, b in pairwise([0, *cuts.tolist(), len(self.places)]))

    def take(self, descriptor: int, batch: slice) -> bool:
        """Read, verify and decode some.

        Args:
            descriptor: The file.
            batch: One of `batches`.

        Returns:
            Whether all are chunks that match their checksums; why one is not, taking it by itself
            will say.
        """
        kernels, item = _kernels(), self.out.itemsize
        places = self.places[batch]
        sizes = places[:, 1] // _APART * _APART + 2 * _APART
        begins = np.cumsum(sizes) - sizes
        table = np.column_stack([places, begins])
        memory = scratch("packed", int(sizes.sum()))
        with at("read"):
            if kernels.gather(descriptor, table, memory) >= 0:
                return False
        with at("verify"):
            if kernels.verify(table, memory) >= 0:
                return False
        first, last = np.searchsorted(self.rows[:, 0], [batch.start, batch.stop])
        rows = self.rows[first:last] - [batch.start, 0, 0, 0]
        out = self.out
        if not self.shuffled:
            out, rows = out.view(np.uint8), rows * [1, item, item, item]
        planes = scratch("planes", self.elements * item)
        with at("decode"):
            found = kernels.unpack(_context().address, table, memory, rows, planes, out)
        return int(found) < 0


def unpackable(item: int, *, shuffled: bool) -> bool:
    """Whether zstd chunks of elements of so many bytes can be read this way; loads what does."""
    return (item in {1, 2, 4} or not shuffled) and compiled_reading() and _kernels() is not None


class _Context:
    """What the decoder keeps from one chunk to the next."""

    def __init__(self) -> None:
        library = _library()
        address = library.ZSTD_createDCtx()
        if not address:
            raise MemoryError
        self.address = int(address)
        weakref.finalize(self, library.ZSTD_freeDCtx, self.address)


_own = threading.local()


def _context() -> _Context:
    """The calling thread's."""
    if not hasattr(_own, "context"):
        _own.context = _Context()
    context: _Context = _own.context
    return context


@cache
def _library() -> Any:
    """The shared library that numcodecs decodes by; None if it shows no C functions."""
    try:
        import numcodecs.zstd

        library = ctypes.CDLL(numcodecs.zstd.__file__)
        library.ZSTD_createDCtx.restype = ctypes.c_void_p
        library.ZSTD_freeDCtx.argtypes = [ctypes.c_void_p]
        if not all(hasattr(library, name) for name in _FUNCTIONS.values()):
            return None
    except (ImportError, OSError, AttributeError):
        return None
    return library


@cache
def _kernels() -> Any:
    library = _library()
    if library is None or not checksum.compiled():
        return None
    try:
        from llvmlite.binding import add_symbol

        for name, function in _FUNCTIONS.items():
            place = ctypes.cast(getattr(library, function), ctypes.c_void_p).value
            add_symbol(name, place)
        from trajfile.containers import kernels_unpack
    except ImportError:
        return None
    return kernels_unpack
