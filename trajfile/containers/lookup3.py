"""The checksum of HDF5's metadata."""

from __future__ import annotations

import struct

_MASK = 0xFFFFFFFF


def lookup3(data: bytes) -> int:
    """Bob Jenkins' hash ``hashlittle`` with initial value 0, as HDF5 checksums its metadata.

    Args:
        data: At least one byte.

    Returns:
        32 bits.
    """
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    padded = data + bytes(-len(data) % 12)
    words = struct.unpack(f"<{len(padded) // 4}I", padded)
    for index in range(0, len(words), 3):
        a, b, c = (x + y & _MASK for x, y in zip((a, b, c), words[index : index + 3], strict=True))
        a, b, c = _mix(a, b, c) if index + 3 < len(words) else _final(a, b, c)
    return c


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (4, 6, 8, 16, 19, 4):
        a = (a - c & _MASK) ^ _rotate(c, bits)
        c = c + b & _MASK
        a, b, c = b, c, a
    return a, b, c


def _final(a: int, b: int, c: int) -> tuple[int, int, int]:
    for bits in (14, 11, 25, 16, 4, 14, 24):
        c = (c ^ b) - _rotate(b, bits) & _MASK
        a, b, c = b, c, a
    return c, a, b
