"""Reading, verifying and decoding compressed chunks, compiled: no lock, and no Python for each.

To be imported only where `trajfile.containers.unpacking` has named the functions called here.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.extending import overload

from trajfile.containers import kernels, kernels_read
from trajfile.containers.compiling import compiler
from trajfile.containers.kernels import fletcher, unshuffle
from trajfile.containers.kernels_read import read

#: Columns of a table of chunks: the address in the file, the stored bytes with the checksum, and
#: where in memory they go.
ADDRESS, SIZE, PACKED = range(3)
#: Columns of a table of rows: the chunk, by its number among those decoded together, the first of
#: its elements that is wanted, how many are, and the element of `out` where they go.
CHUNK, FIRST, COUNT, INTO = range(4)

_size = numba.types.uintp
_declared: Any = numba.types.ExternalFunction("trajfile_zstd_declared", _size(_size, _size))
_decode: Any = numba.types.ExternalFunction("trajfile_zstd_decode", _size(*(_size,) * 5))

_CHECKSUM_BYTES = 4


def _gather(descriptor, chunks, packed):
    """Read chunks as they are stored; the number of the first that is cut off, or -1."""
    base = np.uint64(packed.ctypes.data)
    for k in range(len(chunks)):
        into = base + np.uint64(chunks[k, PACKED])
        if not read(descriptor, chunks[k, ADDRESS], chunks[k, SIZE], into):
            return k
    return -1


def _verify(chunks, packed):
    """Hold chunks against the checksums behind them; the number of the first that fails, or -1."""
    modulus = np.uint64(65535)
    words = packed.view(np.uint16)
    for k in range(len(chunks)):
        start, count = chunks[k, PACKED], chunks[k, SIZE] - _CHECKSUM_BYTES
        end = start + count
        one = np.uint64(packed[end]) | np.uint64(packed[end + 1]) << np.uint64(8)
        two = np.uint64(packed[end + 2]) | np.uint64(packed[end + 3]) << np.uint64(8)
        packed[end] = 0  # an odd last byte makes a word with it
        low, high = fletcher(words[start // 2 : (end + 1) // 2])
        low, high = low * np.uint64(256), high * np.uint64(256)
        low = (low - np.uint64(1)) % modulus + np.uint64(1) if low else low
        high = (high - np.uint64(1)) % modulus + np.uint64(1) if high else high
        if low != one or high != two:
            return k
    return -1


def _inflate(context, chunks, packed, k, planes):
    """Decode chunk k of a table; whether it is one that fills `planes` exactly."""
    source = np.uint64(packed.ctypes.data) + np.uint64(chunks[k, PACKED])
    count, size = np.uint64(chunks[k, SIZE] - _CHECKSUM_BYTES), np.uint64(len(planes))
    if _declared(source, count) != size:
        return False
    return _decode(context, np.uint64(planes.ctypes.data), size, source, count) == size


def _put(planes, first, out):
    """Copy elements of a chunk, from its first one that is wanted on, into `out`."""


@overload(_put)
def _put_by_size(planes, first, out):
    """Of one byte as they are; of more from all their first bytes, all second ones and so on."""
    if out.dtype.bitwidth == 16:
        return lambda planes, first, out: unshuffle2(planes, first, out)
    if out.dtype.bitwidth == 32:
        return lambda planes, first, out: unshuffle4(planes, first, out)

    def copy(planes, first, out):
        here = np.uint64(first)
        for i in range(np.uint64(len(out))):  # as fast as a slice, and compiled 4 s sooner
            out[i] = planes[here + i]

    return copy


def _unpack(context, chunks, packed, rows, planes, out):
    """Decode chunks, and put rows of them in their places; the first that is no chunk, or -1."""
    r = np.int64(0)
    for k in range(len(chunks)):
        if not inflate(context, chunks, packed, k, planes):
            return k
        while r < len(rows) and rows[r, CHUNK] == k:
            into = rows[r, INTO]
            _put(planes, rows[r, FIRST], out[into : into + rows[r, COUNT]])
            r += 1
    return -1


_NUMBER, _CONTEXT = numba.int64, numba.uint64
_TABLE = numba.types.Array(numba.int64, 2, "C", readonly=True)
_BYTES = numba.types.Array(numba.uint8, 1, "C")


def _unpacks(element: Any) -> Any:
    out = numba.types.Array(element, 1, "C")
    return _NUMBER(_CONTEXT, _TABLE, _BYTES, _TABLE, _BYTES, out)


compiled = compiler(__file__, kernels.__file__, kernels_read.__file__)

unshuffle2, unshuffle4 = unshuffle[2], unshuffle[4]
gather = compiled(_gather, _NUMBER(_NUMBER, _TABLE, _BYTES))
verify = compiled(_verify, _NUMBER(_TABLE, _BYTES))
inflate = compiled(_inflate, numba.boolean(_CONTEXT, _TABLE, _BYTES, _NUMBER, _BYTES))
#: Of elements that were shuffled, in as many bytes; of bytes, if none were.
unpack = compiled(_unpack, [_unpacks(kind) for kind in (numba.uint8, numba.uint16, numba.uint32)])
