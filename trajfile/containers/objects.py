"""A folder of objects in a store, in place of a folder of files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

from trajfile.containers.base import Array
from trajfile.containers.bucket import Bucket
from trajfile.errors import Unsafe

_CHUNK = re.compile(r"c\.(\d+)(?:\.\d+)?")
_MAX_DOCUMENT_BYTES = 16 * 2**20
#: What is read of the end of an object at once: the index of most shards.
_TAIL = 1024
_MOST_TAILS = 100_000


class Objects:
    """What `trajfile.containers.folder.Folder` is for files.

    Args:
        bucket: Where.
    """

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.root = bucket.prefix
        self._listed: dict[PurePosixPath, dict[str, int]] = {}
        self._fetched: dict[PurePosixPath, Future[bytes]] = {}
        self._tails: dict[PurePosixPath, tuple[bytes, int]] = {}

    def put(self, path: Any, parts: Iterable[bytes | Array]) -> None:
        """Write an object, replacing it whole."""
        self._listed.pop(path.parent, None)
        self._tails.pop(path, None)
        self.bucket.put(path, parts)

    def make(self, path: Any) -> None:
        """Nothing: a store has no folders."""

    def document(self, path: Any) -> bytes:
        """A small object, such as ``zarr.json``."""
        data, size = self.bucket.tail(path, _MAX_DOCUMENT_BYTES)
        if size > _MAX_DOCUMENT_BYTES:
            raise Unsafe(f"{self.bucket.url}: {path.name} has {size} bytes", rule="ZR-002")
        return data

    def holds(self, path: Any) -> bool:
        """Whether there is such an object."""
        return path.name in self._sizes(path.parent)

    def refuse_link(self, path: Any) -> None:
        """Nothing: a store has no links."""

    def look(self, path: Any) -> tuple[int, int]:
        """The size of an object, and what of it is no hole: all."""
        try:
            size = self._sizes(path.parent)[path.name]
        except KeyError:
            raise FileNotFoundError(str(path)) from None
        return size, size

    def fetch(self, paths: Iterable[Any]) -> None:
        """Begin to read objects that will be opened."""
        for path in paths:
            if self.holds(path) and path not in self._fetched:
                self._fetched[path] = self.bucket.pool.submit(self.bucket.get, path)

    @contextmanager
    def opened(self, path: Any) -> Iterator[Any]:
        """Read an object at chosen places; FileNotFoundError if there is none."""
        fetched = self._fetched.pop(path, None)
        if fetched is not None:
            yield io.BytesIO(fetched.result())
            return
        if path not in self._tails:
            if len(self._tails) > _MOST_TAILS:
                self._tails.clear()
            self._tails[path] = self.bucket.tail(path, _TAIL)
        yield Ranges(self.bucket, path, *self._tails[path])

    def drop_chunks(self, path: Any, first: int) -> int:
        """Delete the chunks of an array from row ``first`` on; how many rows of them there were."""
        dropped: dict[int, list[PurePosixPath]] = {}
        for name in self._sizes(path):
            match = _CHUNK.fullmatch(name)
            if match and int(match.group(1)) >= first:
                dropped.setdefault(int(match.group(1)), []).append(path / name)
        self.bucket.delete([key for keys in dropped.values() for key in keys])
        self._listed.pop(path, None)
        return len(dropped)

    def sync(self, path: Any) -> None:
        """Nothing: a put has come to stay when it returns."""

    def sync_all(self) -> None:
        """Nothing, as `sync`."""

    def stored_bytes(self) -> int:
        """Bytes of all objects."""
        return sum(int(found["size"]) for found in self.bucket.below(self.root))

    def _sizes(self, folder: PurePosixPath) -> dict[str, int]:
        if folder not in self._listed:
            _, objects = self.bucket.entries(folder)
            self._listed[folder] = {
                PurePosixPath(found["path"]).name: int(found["size"]) for found in objects
            }
        return self._listed[folder]


class Ranges:
    """An object as a file that is read at chosen places, each read a request.

    Args:
        bucket: Where.
        path: The object.
        tail: Its last bytes.
        size: Its size.
    """

    #: Bytes read beyond what is asked for: the checksum that follows a chunk.
    _BEYOND = 4

    def __init__(self, bucket: Bucket, path: PurePosixPath, tail: bytes, size: int) -> None:
        self._bucket, self._path, self._size = bucket, path, size
        self._held, self._start = tail, size - len(tail)
        self._at = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, counted from the start (0) or the end (2)."""
        self._at = offset + (self._size if whence == 2 else 0)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Bytes from here on."""
        length = max(0, self._size - self._at) if size < 0 else size
        begin = self._at - self._start
        if begin < 0 or begin + length > len(self._held):
            wanted = max(0, min(length + self._BEYOND, self._size - self._at))
            self._held, self._start = self._bucket.range(self._path, self._at, wanted), self._at
            begin = 0
        found = self._held[begin : begin + length]
        self._at += len(found)
        return found

    def readinto(self, target: Any) -> int:
        """Fill memory from here on; how many bytes there were."""
        into = memoryview(target).cast("B")
        found = self.read(len(into))
        into[: len(found)] = found
        return len(found)
