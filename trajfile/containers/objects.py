"""A folder of objects in a store, in place of a folder of files.

Written are objects only on the condition that they are what this writer takes them to be: rows,
that there are none, or those of its listing; tables and documents, those that it read or wrote
itself. Nothing is deleted but by who creates the trajectory anew. A writer that another one has
taken over from, because it was held up for too long, can therefore spoil nothing when it wakes:

* each writer begins by changing the object that commits, so an earlier one's commit fails;
* what an earlier one managed to write before beyond the last commit is replaced, or, if it comes
  later, refused to the new one, who then looks again;
* what is read in order to be replaced is followed by a look at who holds the lease, before it is.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Any

from trajfile.containers.bucket import Bucket, Conflict
from trajfile.containers.lease import LEASE, Lease
from trajfile.errors import ResourceError, TrajfileError, Unsafe

_CHUNK = re.compile(r"c\.(\d+)(?:\.\d+)?")
_MAX_DOCUMENT_BYTES = 16 * 2**20
#: What is read of the end of an object at once: the index of most shards.
_TAIL = 1024
_MOST_TAILS = 100_000
#: Bytes that may be on their way at a time.
_MOST_SENT = 2**28


class Objects:
    """What `trajfile.containers.folder.Folder` is for files.

    Args:
        bucket: Where.
        lease: Held by this writer; None for reading.
        lent: Whether closing leaves it held.
    """

    def __init__(self, bucket: Bucket, lease: Lease | None = None, *, lent: bool = False) -> None:
        self.bucket = bucket
        self.root = bucket.prefix
        self.lease = lease
        self._lent = lent
        self._listed: dict[PurePosixPath, dict[str, int]] = {}
        self._fetched: dict[PurePosixPath, Future[tuple[bytes, str]]] = {}
        self._tails: dict[PurePosixPath, tuple[bytes, int]] = {}
        # Of a writer: what it may replace, whether it has looked at the lease since it read that,
        # and what is on its way.
        self._known: dict[PurePosixPath, str] = {}
        self._doubtful = lease is not None
        self._sent: dict[PurePosixPath, tuple[Future[None], int]] = {}

    def put(self, path: Any, parts: Iterable[Any], *, once: bool = False) -> None:
        """Begin to write an object, replacing it whole; `settle` waits for it.

        Args:
            path: The object.
            parts: Its bytes, in order.
            once: Whether it will not be written again.

        Raises:
            ResourceError: If something before it could not be written.
        """
        data = b"".join(bytes(memoryview(part).cast("B")) for part in parts)
        if path in self._sent or sum(size for _, size in self._sent.values()) > _MOST_SENT:
            self.settle()
        if self.lease is not None:
            self.lease.check()
            if self._doubtful:
                self._doubtful = False
                self.lease.verify()
        over = self._known.get(path, "") if self.lease is not None else None
        if once:
            self._known.pop(path, None)
        self._tails.pop(path, None)
        if path.parent in self._listed:
            self._listed[path.parent][path.name] = len(data)
        sent = self.bucket.pool.submit(self._send, path, data, over, remember=not once)
        self._sent[path] = sent, len(data)

    def settle(self) -> None:
        """Wait until all that was put is there; ResourceError if some of it could not be."""
        sent, self._sent = self._sent, {}
        failed: list[BaseException] = []
        for future, _ in sent.values():
            error = future.exception()  # waits: nothing may come late
            if error is not None:
                failed.append(error)
        if failed:
            raise failed[0]

    def _send(self, path: PurePosixPath, data: bytes, over: str | None, *, remember: bool) -> None:
        try:
            tag = self.bucket.put(path, [data], over)
        except Conflict as error:
            if self.lease is not None:
                self.lease.verify()
            raise ResourceError(
                f"{self.bucket.url}: {path.name} was written by someone else meanwhile; every step "
                "committed before stays readable: append to it again"
            ) from error
        except FileNotFoundError as error:
            raise ResourceError(f"{self.bucket.url}: there is no such bucket any more") from error
        if remember:
            self._known[path] = tag

    def forget(self) -> None:
        """After a failure to write: wait for what is under way, and believe nothing of before."""
        with suppress(TrajfileError):
            self.settle()
        for kept in (self._known, self._listed, self._fetched, self._tails):
            kept.clear()
        self._doubtful = self.lease is not None

    def clear(self, *, but: frozenset[str] = frozenset()) -> None:
        """Delete all objects but the lease, the root's document first: then it is no trajectory.

        Args:
            but: Names, below the root, of what else is to stay.
        """
        assert self.lease is not None, "only who creates it may delete"
        self.forget()
        self.lease.verify()
        stay = {self.root / name for name in (LEASE, *but)}
        keys = {PurePosixPath(found["path"]) for found in self.bucket.below(self.root)} - stay
        first = self.root / "zarr.json"
        self.bucket.delete([first] if first in keys else [])
        self.bucket.delete(sorted(keys - {first}))
        self.forget()

    def close(self) -> None:
        """Let go of the lease and of the store."""
        if self.lease is not None and not self._lent:
            self.lease.release()
        self.bucket.close()

    def make(self, path: Any) -> None:
        """Nothing: a store has no folders."""

    def document(self, path: Any) -> bytes:
        """A small object, such as ``zarr.json``."""
        data, size, tag = self.bucket.tail(path, _MAX_DOCUMENT_BYTES)
        self._note(path, tag)
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
                self._fetched[path] = self.bucket.pool.submit(self.bucket.whole, path)

    @contextmanager
    def opened(self, path: Any) -> Iterator[Any]:
        """Read an object at chosen places; FileNotFoundError if there is none."""
        fetched = self._fetched.pop(path, None)
        if fetched is not None:
            data, tag = fetched.result()
            self._note(path, tag)
            yield io.BytesIO(data)
            return
        if path not in self._tails:
            if len(self._tails) > _MOST_TAILS:
                self._tails.clear()
            data, size, tag = self.bucket.tail(path, _TAIL)
            self._note(path, tag)
            self._tails[path] = data, size
        yield Ranges(self.bucket, path, *self._tails[path])

    def bands(self, path: Any) -> set[int]:
        """Which rows of chunks an array has objects of."""
        return {int(found.group(1)) for found in map(_CHUNK.fullmatch, self._sizes(path)) if found}

    def drop_chunks(self, path: Any, first: int) -> int:
        """Take the chunks of an array from row ``first`` on for free space, and for not there.

        They are left where they lie: a deletion knows no condition.

        Args:
            path: The array.
            first: Row of chunks.

        Returns:
            How many rows of them there were.
        """
        _, objects = self.bucket.entries(path)
        kept: dict[str, int] = {}
        dropped = set()
        for found in objects:
            name = PurePosixPath(found["path"]).name
            match = _CHUNK.fullmatch(name)
            if match and int(match.group(1)) >= first:
                dropped.add(int(match.group(1)))
                self._note(path / name, str(found["e_tag"]))
                self._tails.pop(path / name, None)
            else:
                kept[name] = int(found["size"])
        self._listed[path] = kept
        return len(dropped)

    def _note(self, path: PurePosixPath, tag: str) -> None:
        """Remember what was found, as what may be replaced."""
        if self.lease is not None:
            self._known[path] = tag
            self._doubtful = True

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
