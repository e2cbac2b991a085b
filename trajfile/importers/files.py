"""The files of a folder of checkpoints: opened safely, few at a time, read at given places.

Bytes are fetched by positioned reads and not through a map of memory: a file that shrinks while it
is mapped ends the process, a short read is an error with a name. Threads may read at once.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajfile.errors import Damaged, UsageError
from trajfile.importers.refusal import half_written, leads_out, not_regular, too_large
from trajfile.importers.scratch import Scratch

_MOST_OPEN = 64
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class File:
    """A file as it was when its folder was opened.

    Attributes:
        path: Where it lies.
        size: Its length in bytes.
        mtime_ns: When it was last written, nanoseconds since 1970.
    """

    path: Path
    size: int
    mtime_ns: int


def known(path: Path, root: Path) -> File:
    """Look at a file without opening it.

    Args:
        path: The file.
        root: The folder that it must lie in, links followed.

    Returns:
        What it is now. Links that lead out of the root, pipes and devices are refused.

    Raises:
        FileNotFoundError: If there is none.
        Damaged: If it may not be looked at.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(
            f"{path} cannot be read: {error.strerror}; check its permissions",
            path=path,
            rule="CKPT-004",
        ) from error
    if not path.resolve().is_relative_to(root.resolve()):
        leads_out(path, "is a link out of the folder")
    if not stat.S_ISREG(found.st_mode):
        not_regular(path)
    return File(path, found.st_size, found.st_mtime_ns)


class Files:
    """Opens files when they are read and keeps the last 64 open.

    Args:
        most: How many stay open.
        trust: Whether code that a file names may be run, as `trajfile.importers.trusted` says.

    Attributes:
        scratch: Where what that code builds is kept; None if none may be run.
    """

    def __init__(self, most: int = _MOST_OPEN, *, trust: bool = False):
        self._most = most
        self.scratch = Scratch() if trust else None
        self._lock = Lock()
        self._idle: OrderedDict[File, list[int]] = OrderedDict()
        self._count = 0
        self._closed = False

    def read(self, file: File, offset: int, out: NDArray[Any]) -> None:
        """Fill an array with the bytes from an offset on.

        Args:
            file: Which file.
            offset: Its first byte to read.
            out: C-contiguous, of a dtype NumPy itself has.

        Raises:
            Damaged: If the file ends before, or is another than when it was opened.
        """
        if not out.nbytes:
            return
        view = out.reshape(-1).view(np.uint8).data
        with self._open(file) as descriptor:
            done = 0
            while done < len(view):
                got = os.preadv(descriptor, [view[done:]], offset + done)
                if not got:
                    half_written(file.path, f"expected {len(view)} bytes at {offset}, found {done}")
                done += got

    def bytes(self, file: File, offset: int, count: int, most: int = 2**26) -> bytes:
        """Some bytes of a file, at most 64 MiB unless told otherwise."""
        if count > most:
            too_large(file.path, f"asks for {count} bytes at once")
        if offset < 0 or count < 0 or offset + count > file.size:
            half_written(file.path, f"expected {offset + count} bytes, found {file.size}")
        out = np.empty(count, np.uint8)
        self.read(file, offset, out)
        return out.tobytes()

    def each(self, jobs: Iterable[Callable[[], None]]) -> None:
        """Do jobs that read, one after another."""
        for job in jobs:
            job()

    def close(self) -> None:
        """Close all files; reading is refused afterwards."""
        with self._lock:
            self._closed = True
            for descriptors in self._idle.values():
                for descriptor in descriptors:
                    os.close(descriptor)
            self._idle.clear()
            self._count = 0
        if self.scratch is not None:
            self.scratch.close()

    @contextmanager
    def _open(self, file: File) -> Iterator[int]:
        descriptor = self._take(file)
        try:
            _check_unchanged(file, descriptor)
            yield descriptor
        finally:
            self._give(file, descriptor)

    def _take(self, file: File) -> int:
        with self._lock:
            if self._closed:
                raise UsageError(f"{file.path} is closed; open the folder again")
            idle = self._idle.get(file)
            if idle:
                self._count -= 1
                descriptor = idle.pop()
                if not idle:
                    del self._idle[file]
                return descriptor
        return _opened(file)

    def _give(self, file: File, descriptor: int) -> None:
        with self._lock:
            if self._closed:
                os.close(descriptor)
                return
            self._idle.setdefault(file, []).append(descriptor)
            self._idle.move_to_end(file)
            self._count += 1
            while self._count > self._most:
                oldest, idle = next(iter(self._idle.items()))
                os.close(idle.pop())
                self._count -= 1
                if not idle:
                    del self._idle[oldest]


def _opened(file: File) -> int:
    try:
        return os.open(file.path, _FLAGS)
    except OSError as error:
        raise Damaged(
            f"{file.path} cannot be opened: {error.strerror}; check that it is still there",
            path=file.path,
            rule="CKPT-004",
        ) from error


def _check_unchanged(file: File, descriptor: int) -> None:
    found = os.fstat(descriptor)
    if (found.st_size, found.st_mtime_ns) != (file.size, file.mtime_ns):
        raise Damaged(
            f"{file.path} has changed since its folder was opened; open the folder again",
            path=file.path,
            rule="CKPT-004",
        )
