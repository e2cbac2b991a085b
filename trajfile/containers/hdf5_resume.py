"""Making an HDF5 file that a killed writer left appendable again.

In single-writer mode the library orders its writes so that the file is consistent at every moment;
after a kill only the superblock stands in the way. It says that a writer is there, and its
end-of-file address is that of the start.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from trajfile.containers.hdf5_open import SUPERBLOCK_BYTES, cut_short

_MASK = 0xFFFFFFFF
_FLAGS = 11
_END = 28
_CHECKSUM = 44


def clear_writer_mark(path: Path) -> bytes:
    """Mark the file as cleanly closed, at its present length.

    The caller must know that no writer is there.

    Args:
        path: The file.

    Returns:
        The superblock as it was, for `put_back`.
    """
    with path.open("r+b") as file:
        found = file.read(SUPERBLOCK_BYTES)
        (stored,) = struct.unpack_from("<I", found, _CHECKSUM)
        if found[8] != 3 or lookup3(found[:_CHECKSUM]) != stored:
            cut_short(path, "the superblock fails its checksum")
        changed = bytearray(found)
        changed[_FLAGS] = 0
        struct.pack_into("<Q", changed, _END, os.fstat(file.fileno()).st_size)
        struct.pack_into("<I", changed, _CHECKSUM, lookup3(bytes(changed[:_CHECKSUM])))
        file.seek(0)
        file.write(changed)
    return found


def put_back(path: Path, superblock: bytes) -> None:
    """Restore a superblock, so that the file is again as a kill left it."""
    with path.open("r+b") as file:
        file.write(superblock)


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
