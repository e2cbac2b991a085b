"""Reading rows of plain chunks, compiled: no lock, and no Python for each chunk.

To be imported only where the C library has `pread`, in 64 bits.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from trajfile.containers import kernels
from trajfile.containers.compiling import compiler
from trajfile.containers.kernels import fletcher

# By name, not by address, so that what was compiled can be kept.
_pread: Any = numba.types.ExternalFunction(
    "pread",
    numba.types.intp(numba.intc, numba.types.uintp, numba.types.uintp, numba.int64),
)
_memcpy: Any = numba.types.ExternalFunction("memcpy", numba.types.uintp(*(numba.types.uintp,) * 3))


def _gather(descriptor, places, size, first, count, words, out, stride):
    """Read chunks one after another, verify each in the cache, and copy a part of it to its row.

    Args:
        descriptor: The file.
        places: Address of each chunk.
        size: Bytes of a chunk, even, without the checksum behind it.
        first: The first byte of each that is wanted.
        count: How many are.
        words: Memory for a chunk and its checksum, 16-bit words.
        out: All the memory that rows lie in, bytes.
        stride: How far a row is from the one before it.

    Returns:
        -1; or twice the number of the first chunk that cannot be read whole, or twice that of
        the first that fails its checksum and one more.
    """
    modulus, base = np.uint64(65535), np.uint64(words.ctypes.data)
    half, due = size // 2, size + 4
    begin, into = base + np.uint64(first), np.uint64(out.ctypes.data)
    for k in range(len(places)):
        got = np.int64(0)
        while got < due:
            rest = np.uint64(due - got)
            some = _pread(np.int32(descriptor), base + np.uint64(got), rest, places[k] + got)
            if some <= 0:
                return 2 * k
            got += some
        low, high = fletcher(words[:half])
        # 256 w is w with its bytes exchanged, modulo 65535; a multiple of it counts as 65535.
        low, high = low * np.uint64(256), high * np.uint64(256)
        low = (low - np.uint64(1)) % modulus + np.uint64(1) if low else low
        high = (high - np.uint64(1)) % modulus + np.uint64(1) if high else high
        if low != words[half] or high != words[half + 1]:
            return 2 * k + 1
        # A loop over bytes takes three times as long: the compiler doesn't see that it copies.
        _memcpy(into + np.uint64(k * stride), begin, np.uint64(count))
    return -1


_ADDRESSES = numba.types.Array(numba.int64, 1, "C", readonly=True)
_BYTES = numba.types.Array(numba.uint8, 1, "C")
_WORDS = numba.types.Array(numba.uint16, 1, "C")

compiled = compiler(__file__, kernels.__file__)

gather = compiled(
    _gather, numba.int64(numba.int64, _ADDRESSES, *(numba.int64,) * 3, _WORDS, _BYTES, numba.int64)
)
