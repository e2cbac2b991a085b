"""A file's bytes where the system holds them: mapped, and not copied to be looked at.

To copy a page the system looks it up each time; mapping many at once costs it a fraction of that.
But who touches a mapped page that the file has lost since, or that cannot be read, is ended. So
pages are asked for before they are touched, by a call that says whether they could be had, and
mapped anew for each tile. What is left is a file that another program cuts while it is read.
"""

from __future__ import annotations

import mmap
import os
import sys
from threading import Lock

import numpy as np
from numpy.typing import NDArray

#: To have pages mapped, and be told if one cannot be: Linux 5.14. Python does not name it.
POPULATE_READ = 22


class Mapped:
    """A file, mapped as long as it was.

    Args:
        descriptor: The file, open; it may be closed afterwards.

    Attributes:
        address: Of its first byte in memory.
        size: Bytes.

    Raises:
        OSError: If it cannot be mapped.
    """

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        self._pages = mmap.mmap(descriptor, self.size, mmap.MAP_SHARED, mmap.PROT_READ)
        self._pages.madvise(POPULATE_READ, 0, 1)
        self.bytes: NDArray[np.uint8] = np.frombuffer(self._pages, np.uint8)
        self.address = int(self.bytes.ctypes.data)

    def release(self) -> None:
        """Map nothing of it until it is asked for again; the file keeps what it holds."""
        self._pages.madvise(mmap.MADV_DONTNEED)


class Mapping:
    """Maps a file when that is wanted, and again when it has grown.

    Args:
        descriptor: The file; it is to stay open.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._possible = sys.platform == "linux" and hasattr(mmap, "MADV_DONTNEED")
        self._mapped: Mapped | None = None
        self._lock = Lock()

    def until(self, end: int) -> Mapped | None:
        """The file, mapped to some byte at least.

        Args:
            end: The byte after the last that is wanted.

        Returns:
            None if it is shorter, or cannot be mapped.
        """
        with self._lock:
            if self._possible and (self._mapped is None or self._mapped.size < end):
                try:
                    self._mapped = Mapped(self._descriptor)
                except (OSError, ValueError):  # of an older system, or of an empty file
                    self._possible = False
            found = self._mapped
            return found if self._possible and found is not None and found.size >= end else None
