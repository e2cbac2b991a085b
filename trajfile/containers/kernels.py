"""The filters of chunks, compiled: as fast as memory, and without a lock."""

from __future__ import annotations

import numba
import numpy as np

from trajfile.containers.compiling import compiler

_BLOCK = 256


def _fletcher(words):
    """Both sums over 16-bit words as they lie in memory, folded: see `checksum.fletcher32`."""
    low = high = np.uint64(0)
    modulus = np.uint64(65535)
    count = len(words)
    whole = count // _BLOCK
    for k in range(whole):
        # Within a block all stays below 2^32: 65535 (1 + ... + 256) < 2^32.
        total = weighted = np.uint32(0)
        base = k * _BLOCK
        for i in range(_BLOCK):
            word = np.uint32(words[base + i])
            total = np.uint32(total + word)
            weighted = np.uint32(weighted + word * np.uint32(_BLOCK - i))
        high += np.uint64(weighted) + np.uint64(_BLOCK) * low
        low += np.uint64(total)
        if k & 4095 == 4095:
            low = (low - np.uint64(1)) % modulus + np.uint64(1) if low else low
            high = (high - np.uint64(1)) % modulus + np.uint64(1) if high else high
    for i in range(whole * _BLOCK, count):
        low += np.uint64(words[i])
        high += low
    low = (low - np.uint64(1)) % modulus + np.uint64(1) if low else low
    high = (high - np.uint64(1)) % modulus + np.uint64(1) if high else high
    return low, high


def _unshuffle2(planes, first, out):
    """Elements of two bytes, from the first one on, of all first bytes and all second ones."""
    here, next_ = np.uint64(first), np.uint64(first + len(planes) // 2)
    for i in range(np.uint64(len(out))):
        high = np.uint16(planes[next_ + i])
        out[i] = np.uint16(planes[here + i]) | np.uint16(high << np.uint16(8))


def _unshuffle4(planes, first, out):
    size = len(planes) // 4
    one, two = np.uint64(first), np.uint64(first + size)
    three, four = np.uint64(first + 2 * size), np.uint64(first + 3 * size)
    for i in range(np.uint64(len(out))):
        out[i] = (
            np.uint32(planes[one + i])
            | (np.uint32(planes[two + i]) << np.uint32(8))
            | (np.uint32(planes[three + i]) << np.uint32(16))
            | (np.uint32(planes[four + i]) << np.uint32(24))
        )


# Bytes that may not be written are taken too, and so are those that may.
_SIGNATURE = numba.types.UniTuple(numba.uint64, 2)(
    numba.types.Array(numba.uint16, 1, "C", readonly=True)
)

_BYTES = numba.types.Array(numba.uint8, 1, "C")

compiled = compiler(__file__)

fletcher = compiled(_fletcher, _SIGNATURE)


def _unshuffles(element):
    return numba.void(_BYTES, numba.int64, numba.types.Array(element, 1, "C"))


unshuffle = {
    2: compiled(_unshuffle2, _unshuffles(numba.uint16)),
    4: compiled(_unshuffle4, _unshuffles(numba.uint32)),
}
