"""Opening an HDF5 file to append to it, also one that a killed writer left.

In single-writer mode the library orders its writes so that the file is consistent at every moment;
after a kill only the superblock stands in the way. It says that a writer is there, and its
end-of-file address is that of the start.

The file goes from closed to single-writer mode in one write of the superblock. Opened for writing
first and switched over later, it would in between carry the mark of a file that nobody can open,
and a kill there would cost everything. For the same reason nothing is cut off: what a kill left
behind the last commit is written over.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import h5py
from h5py import h5f, h5p
from h5py._objects import ObjectID

from trajfile.containers.full_disk import full_disk_as_resource_error
from trajfile.containers.hdf5_open import SUPERBLOCK_BYTES, cut_short, read_superblock
from trajfile.containers.lookup3 import lookup3
from trajfile.containers.writer_lock import WriterLock
from trajfile.errors import ResourceError, UsageError

#: Where anything in the file may begin, in bytes. A write that a kill cuts off ends between two
#: pages of the file, so what lies within one page is written whole or not at all. Object headers
#: and the heads of chunk indexes, rewritten with every row, are smaller than this and never
#: straddle a page; cut in two they would fail their checksums, and take every row along.
ALIGNMENT = 512

_FLAGS = 11
_END = 28
_CHECKSUM = 44


def open_to_append(path: Path, lock: WriterLock) -> h5py.File:
    """Open a file in single-writer mode.

    Args:
        path: The file; its links and indexes have been checked.
        lock: Held on it, so that no other writer is there.

    Returns:
        The open file.

    Raises:
        ResourceError: If it cannot be written, or another writer may be there.
    """
    if not read_superblock(path).writing:
        return _open_closed(path)
    if not lock.certain:
        raise ResourceError(
            f"{path} is open in another writer, or was left by one that was killed, and this "
            "system cannot tell which: record into a new file"
        )
    with full_disk_as_resource_error(path):
        superblock = clear_writer_mark(path)
    try:
        return _open_closed(path)
    except BaseException:
        put_back(path, superblock)
        raise


def _open_closed(path: Path) -> h5py.File:
    """Open a cleanly closed file in single-writer mode."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
    access.set_alignment(1, ALIGNMENT)
    try:
        return h5py.File(h5f.open(os.fsencode(path), h5f.ACC_RDWR | h5f.ACC_SWMR_WRITE, access))
    except OSError as error:
        if isinstance(error, PermissionError | BlockingIOError):
            raise ResourceError(
                f"{path} cannot be opened for writing ({error.strerror}): check its permissions "
                "and whether another program holds it"
            ) from error
        if "already open" in str(error):  # HDF5 keeps one mode a file within a process
            raise UsageError(
                f"{path} is open for reading in this program: close that trajectory, then append"
            ) from error
        cut_short(path, str(error), error)


def abandon(file: h5py.File, opened: Iterable[ObjectID]) -> None:
    """Close a file that the library failed to write, leaving it as a kill would.

    The library tries again when it closes. If that fails too, it is left in pieces that crash when
    they are touched; if not, the superblock names a length that includes what was never written.
    So the library gets to finish elsewhere, and its pieces are never touched again.

    Args:
        file: The file.
        opened: What is open in it.
    """
    if hasattr(os, "memfd_create"):
        elsewhere = os.memfd_create("trajfile")
    else:
        elsewhere = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(elsewhere, file.id.get_vfd_handle(), inheritable=False)
    finally:
        os.close(elsewhere)
    for piece in (file, file.id, *opened):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(piece))
    with contextlib.suppress(RuntimeError):
        file.close()


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
