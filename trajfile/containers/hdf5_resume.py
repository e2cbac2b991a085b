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
from trajfile.containers.lookup3 import lookup3

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
