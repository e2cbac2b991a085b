"""An HDF5 file that was not closed, shown to the library as one that was.

After a kill only the superblock stands in the way of opening a file plainly. The library would
open it in single-writer mode, too, but then takes every failed checksum for a write in progress
and waits for it twice as long each time: a single flipped bit in its metadata becomes a wait
without end. Seen through this view the same bit is an error at once, and nothing on the disk is
touched.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

from trajfile.containers.lookup3 import lookup3
from trajfile.containers.regular import open_regular

#: Size of a superblock of version 2 or 3 with addresses of 8 bytes.
_BYTES = 48
_ENDLESS = 2**62
_HEAD = struct.Struct("<8sBBBBQQQQ")


class ClosedView(io.RawIOBase):
    """A file read-only, with the superblock that closing it cleanly would have left.

    Args:
        path: The file.
        usual: Whether its superblock is lost, and the usual one is to be shown.
        growing: Whether somebody is appending to it. It is shown without an end then: what is
            read of it later may point beyond the one it has now.
    """

    def __init__(self, path: Path, *, usual: bool = False, growing: bool = False):
        super().__init__()
        self._path = path
        self._descriptor = open_regular(path)
        self._size = _ENDLESS if growing else os.fstat(self._descriptor).st_size
        self._at = 0
        found = self._usual() if usual else os.pread(self._descriptor, _BYTES, 0)
        self._superblock = closed_superblock(found, self._size)

    def _usual(self) -> bytes:
        """The superblock that `create` makes for a file whose root's header lies where it does."""
        places = [at for at in ROOTS if os.pread(self._descriptor, 4, at) == b"OHDR"]
        root = places[0] if places else ROOTS[0]
        return _HEAD.pack(b"\x89HDF\r\n\x1a\n", 3, 8, 8, 0, 0, 2**64 - 1, root, root)

    def readinto(self, buffer: object) -> int:
        """Fill a buffer from the present position on."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type] # any writable buffer
        if self._at + len(view) >= 2**63:
            raise OSError(f"address {self._at} is beyond the end of any file")
        count = os.preadv(self._descriptor, [view], self._at)
        hidden = self._superblock[self._at : self._at + count]
        view[: len(hidden)] = hidden
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """The present position."""
        return self._at

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def close(self) -> None:
        """Release the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def __repr__(self) -> str:
        """The path; the library takes it for the file's name."""
        return str(self._path)


#: Where `create` puts the header of the root: aligned; in early files right behind the superblock.
ROOTS = (512, _BYTES)


def closed_superblock(found: bytes, size: int) -> bytes:
    """A superblock without the marks of a writer, for a file of that size.

    Args:
        found: The superblock as it is, of version 2 or 3.
        size: Bytes of the file.

    Returns:
        48 bytes, their checksum recomputed.
    """
    signature, version, offsets, lengths, _, base, extension, _, root = _HEAD.unpack_from(found)
    head = _HEAD.pack(signature, version, offsets, lengths, 0, base, extension, size, root)
    return head + struct.pack("<I", lookup3(head))
