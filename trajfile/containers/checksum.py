"""The filters of HDF5's chunks, by a library, or compiled where much is to be read."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: From so many bytes on it is worth the time to load the compiler.
LARGE_BYTES = 2**28

_compiled: Any = None
_unshuffle: dict[int, Any] = {}
_tried = False


def prepare() -> bool:
    """Make ready for much reading.

    Returns:
        Whether checksums are compiled from now on; False where Numba is not installed, cannot
        keep what it compiled, or is not to compile.
    """
    global _compiled, _unshuffle, _tried
    if not _tried and sys.byteorder == "little":
        _tried = True
        with suppress(ImportError, OSError):
            import numba

            if getattr(numba.config, "DISABLE_JIT", 0):  # what calls C has no other way
                return False
            from trajfile.containers.kernels import fletcher, unshuffle

            _compiled, _unshuffle = fletcher, unshuffle
    return _compiled is not None


def forbid_compiling() -> None:
    """Do without a compiler from now on: it writes files, which not every process may."""
    global _compiled, _unshuffle, _tried
    _compiled, _unshuffle, _tried = None, {}, True


def compiled() -> bool:
    """Whether checksums are compiled."""
    return _compiled is not None


def unshuffle(planes: NDArray[np.uint8], out: NDArray[Any]) -> None:
    """Put the bytes of elements together again that HDF5's shuffle filter laid apart.

    Args:
        planes: The first bytes of all elements, then the second ones, ...: shape (item size,
            elements), contiguous.
        out: Unsigned integers of that size, shape (elements,), contiguous.
    """
    if len(planes) in _unshuffle:
        _unshuffle[len(planes)](planes.reshape(-1), 0, out)
        return
    elements = out.view(np.uint8).reshape(len(out), -1)
    for number, plane in enumerate(planes):  # thrice as fast as a transpose
        elements[:, number] = plane


def fletcher32(data: NDArray[Any]) -> int:
    """Fletcher's checksum as HDF5 computes it.

    Over the big-endian 16-bit words w_1 .. w_n (an odd last byte counts as the high one):
    sum_i w_i and sum_i (n - i + 1) w_i, both modulo 65535, where a positive sum that is a
    multiple of it counts as 65535.

    Args:
        data: Bytes.

    Returns:
        The second sum in the high and the first in the low 16 bits.
    """
    even = len(data) // 2 * 2
    if _compiled is not None and data.ctypes.data % 2 == 0 and data.flags.c_contiguous:
        low, high = (int(total) for total in _compiled(data[:even].view(np.uint16)))
        if even < len(data):
            low += int(data[even])
            high += low
        # 256 w is w with its bytes exchanged, modulo 65535.
        return (_fold(256 * high) << 16) | _fold(256 * low)
    return fletcher32_by_library(data)


def fletcher32_by_library(data: NDArray[Any]) -> int:
    """The same, without a compiler.

    Args:
        data: Bytes.

    Returns:
        As `fletcher32`.
    """
    return int.from_bytes(_summed(np.ascontiguousarray(data))[-4:], "little")


def summed(data: bytes) -> bytes:
    """Bytes with their checksum behind them, as they lie in a file."""
    if _compiled is None:
        return _summed(data)
    return data + fletcher32(np.frombuffer(data, np.uint8)).to_bytes(4, "little")


def _summed(data: bytes | NDArray[Any]) -> bytes:
    if not len(data):
        return bytes(4)
    from numcodecs.fletcher32 import Fletcher32  # put off: it costs start-up time

    both: bytes = Fletcher32().encode(data)
    return both


def _fold(value: int) -> int:
    return (value - 1) % 65535 + 1 if value else 0
