"""Reading and verifying pieces of many chunks, compiled: no lock, and no Python for each chunk.

To be imported only where the C library has the functions called here: on Linux, in 64 bits.
"""

from __future__ import annotations

import os
from typing import Any

import numba
import numpy as np

from trajfile.containers import kernels, stored
from trajfile.containers.compiling import compiler
from trajfile.containers.kernels import fletcher
from trajfile.containers.stored import INTO, ROW, STREAM

#: Columns of a table of blocks: the file, the number of the block's stream, the columns of the
#: piece's owner that it holds, bytes of an element, the byte of its first chunk with which it
#: begins, bytes of a chunk, rows, and where the addresses of its chunks begin.
FILE, OF, START, STOP, ITEM, FIRST, WIDTH, ROWS, PLACES = range(9)

# By name, not by address, so that what was compiled can be kept.
_size, _from = numba.types.uintp, numba.int64
_pread: Any = numba.types.ExternalFunction(
    "pread", numba.types.intp(numba.intc, _size, _size, _from)
)
_preadv2: Any = numba.types.ExternalFunction(
    "preadv2", numba.types.intp(numba.intc, _size, numba.intc, _from, numba.intc)
)
_fadvise: Any = numba.types.ExternalFunction(
    "posix_fadvise", numba.intc(numba.intc, _from, _from, numba.intc)
)

#: Bytes asked to be read ahead at once: of larger ranges the system takes only the beginning.
_AHEAD_BYTES = 2**17
#: One chunk in so many is looked for first.
_SAMPLE = 16
_NOWAIT, _WILLNEED = os.RWF_NOWAIT, os.POSIX_FADV_WILLNEED


def _read(descriptor, address, count, into):
    """Read `count` bytes at an address of a file to one in memory; whether all were there."""
    got = np.int64(0)
    while got < count:
        rest = np.uint64(count - got)
        some = _pread(np.int32(descriptor), into + np.uint64(got), rest, address + got)
        if some <= 0:
            return False
        got += some
    return True


def _fetch(table, places, reads, start, stop, memory, begin):
    """Read columns [start, stop) of some rows to a piece that begins at `begin`.

    Returns:
        Whether all were there.
    """
    base = np.uint64(memory.ctypes.data) + np.uint64(begin)
    for b in range(len(table)):
        if table[b, START] > start or stop > table[b, STOP]:
            continue
        item, width, rows = table[b, ITEM], table[b, WIDTH], table[b, ROWS]
        at = table[b, FIRST] + (start - table[b, START]) * item
        end = at + (stop - start) * item
        into = base
        while at < end:
            chunk, skip = at // width, at % width
            count = min(end - at, width - skip)
            first = table[b, PLACES] + chunk * rows
            for k in range(len(reads)):
                if reads[k, STREAM] != table[b, OF]:
                    continue
                target = into + np.uint64(reads[k, INTO])
                if not read(table[b, FILE], places[first + reads[k, ROW]] + skip, count, target):
                    return False
            at += count
            into += np.uint64(count)
    return True


def _add(table, reads, start, stop, words, begin, low, high):
    """Add what was fetched to the checksums of the chunks.

    The second sum weighs each word with how many follow, itself included; so it gains a piece's
    own second sum, and its first one for each word of the chunk that follows the piece.
    """
    for b in range(len(table)):
        if table[b, START] > start or stop > table[b, STOP]:
            continue
        item, width, rows = table[b, ITEM], table[b, WIDTH], table[b, ROWS]
        at = table[b, FIRST] + (start - table[b, START]) * item
        end = at + (stop - start) * item
        source = begin
        while at < end:
            chunk, skip = at // width, at % width
            count = min(end - at, width - skip)
            weight = np.uint64((width - skip - count) // 2 % 65535)
            first = table[b, PLACES] + chunk * rows
            for k in range(len(reads)):
                if reads[k, STREAM] != table[b, OF]:
                    continue
                row, word = reads[k, ROW], (source + reads[k, INTO]) // 2
                own_low, own_high = fletcher(words[word : word + count // 2])
                low[first + row] += own_low
                high[first + row] += own_high + weight * own_low
            at += count
            source += count


def _settle(descriptor, places, skip, stop, size, low, high):
    """Hold the sums over bytes [skip, stop) of chunks, completed by the others, against the stored.

    Returns:
        The number of the first chunk that cannot be read or fails, or -1.
    """
    modulus = np.uint64(65535)
    rest = np.empty((max(skip, size - stop) + 4) // 2, np.uint16)
    into = np.uint64(rest.ctypes.data)
    for k in range(len(places)):
        one, two = low[k], high[k]
        if skip:
            if not read(descriptor, places[k], skip, into):
                return k
            own_low, own_high = fletcher(rest[: skip // 2])
            one += own_low
            two += own_high + np.uint64((size - skip) // 2 % 65535) * own_low
        if not read(descriptor, places[k] + stop, size - stop + 4, into):
            return k
        tail = (size - stop) // 2
        if tail:
            own_low, own_high = fletcher(rest[:tail])
            one += own_low
            two += own_high
        # 256 w is w with its bytes exchanged, modulo 65535; a multiple of it counts as 65535.
        one = (np.uint64(256) * ((one - np.uint64(1)) % modulus + np.uint64(1))) if one else one
        two = (np.uint64(256) * ((two - np.uint64(1)) % modulus + np.uint64(1))) if two else two
        one = (one - np.uint64(1)) % modulus + np.uint64(1) if one else one
        two = (two - np.uint64(1)) % modulus + np.uint64(1) if two else two
        if one != rest[tail] or two != rest[tail + 1]:
            return k
    return -1


def _announce(descriptor, places, count):
    """Have the system read ahead chunks of which it does not hold the last byte.

    Where it holds all of a sample, it is taken to hold the others too: asking costs as much as
    reading a few KiB.
    """
    file, byte = np.int32(descriptor), np.zeros(1, np.uint8)
    vector = np.array([np.int64(byte.ctypes.data), np.int64(1)])  # an iovec
    address, one, nowait = np.uint64(vector.ctypes.data), np.int32(1), np.int32(_NOWAIT)
    held = True
    for k in range(len(places) - 1, -1, -_SAMPLE):
        held = held and _preadv2(file, address, one, places[k] + count - 1, nowait) == 1
    for k in range(len(places) if not held else 0):
        last = places[k] + count - 1
        if _preadv2(file, address, one, last, nowait) == 1:
            continue
        for start in range(places[k], last + 1, _AHEAD_BYTES):
            _fadvise(file, start, min(_AHEAD_BYTES, last + 1 - start), np.int32(_WILLNEED))


_ADDRESSES = numba.types.Array(numba.int64, 1, "C", readonly=True)
_BYTES = numba.types.Array(numba.uint8, 1, "C")
_WORDS = numba.types.Array(numba.uint16, 1, "C")
_SUMS = numba.types.Array(numba.uint64, 1, "C")
_NUMBER = numba.int64
_TABLE = numba.types.Array(numba.int64, 2, "C", readonly=True)

compiled = compiler(__file__, kernels.__file__, stored.__file__)

read = compiled(_read, numba.boolean(_NUMBER, _NUMBER, _NUMBER, numba.uint64))
fetch = compiled(
    _fetch, numba.boolean(_TABLE, _ADDRESSES, _TABLE, _NUMBER, _NUMBER, _BYTES, _NUMBER)
)
add = compiled(_add, numba.void(_TABLE, _TABLE, _NUMBER, _NUMBER, _WORDS, _NUMBER, _SUMS, _SUMS))
settle = compiled(_settle, _NUMBER(_NUMBER, _ADDRESSES, *(_NUMBER,) * 3, _SUMS, _SUMS))
announce = compiled(_announce, numba.void(_NUMBER, _ADDRESSES, _NUMBER))
