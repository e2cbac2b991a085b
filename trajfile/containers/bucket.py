"""Objects of an S3-compatible store: ranges are read with retries, puts are whole and conditional.

Credentials, region and endpoint come from the environment alone (``AWS_ACCESS_KEY_ID`` and its
like, or the machine's role). What a server answers is never repeated in a message: it may name
keys.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import PurePosixPath
from threading import Lock
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from trajfile.errors import FormatError, NotATrajectory, ResourceError, UsageError

#: Requests under way at a time.
REQUESTS = 16
#: How long a request may take, and how often and for how long it is tried again.
_TIMEOUT, _RETRIES, _PATIENCE = 30.0, 8, 120.0
#: How often a request is made again whose answer broke off.
_BROKEN_OFF = 4
_BODY = re.compile("response body|error decoding", re.I)
_STATUS = re.compile(r"status code: ([45]\d\d)")

#: How slowly a large object may be sent, in bytes a second, and what counts as one.
_SLOWEST, _LARGE = 2**20, 2**23

T = TypeVar("T")


class Unreachable(FormatError):
    """A store that does not answer, or refuses to."""


class Conflict(Exception):
    """An object is not as a conditional put took it to be: someone else has written it."""


class Bucket:
    """The objects of a store below an address.

    Args:
        url: ``s3://bucket/prefix``.
        writing: Whether a store that does not answer is one that refuses to write, a
            `ResourceError`, and not one that cannot be read.

    Raises:
        UsageError: If the address holds credentials or names no bucket, or the library for such
            stores is not installed.
    """

    def __init__(self, url: str, *, writing: bool = False) -> None:
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise UsageError(
                f"s3://…{parts.path}: an address may not hold credentials; set AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY in the environment"
            )
        if not parts.netloc:
            raise UsageError(f"{url} names no bucket: expected s3://bucket/path/run.zarr")
        self.url = f"s3://{parts.netloc}/{parts.path.strip('/')}"
        self.prefix = PurePosixPath(parts.path.strip("/"))
        self._bucket, self._writing = parts.netloc, writing
        self._large: Any = None
        if any(part in {"", ".", ".."} for part in parts.path.strip("/").split("/")[1:]):
            raise UsageError(f"{url}: the parts of an address may not be empty or dots")
        self._timeout = float(os.environ.get("TRAJFILE_REMOTE_TIMEOUT") or _TIMEOUT)
        self._store = self._connect(self._timeout)
        self.bytes_read = 0
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None

    def _connect(self, timeout: float) -> Any:
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise UsageError(
                f"{self.url} lies in a store: install the library for it with "
                "pip install 'trajfile[remote]'"
            ) from error
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
        return S3Store(
            self._bucket,
            **options,
            client_options={
                "timeout": timedelta(seconds=timeout),
                "connect_timeout": timedelta(seconds=self._timeout),
                "allow_http": endpoint.startswith("http://"),
            },
            retry_config={
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=_PATIENCE),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=100),
                    "max_backoff": timedelta(seconds=5),
                    "base": 2,
                },
            },
        )

    @property
    def pool(self) -> ThreadPoolExecutor:
        """Threads for requests that do not wait for one another."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(REQUESTS, thread_name_prefix="trajfile-remote")
            return self._pool

    def get(self, key: PurePosixPath) -> bytes:
        """A whole object; FileNotFoundError if there is none."""
        return self._count(self._ask(key, lambda store: bytes(store.get(str(key)).bytes())))

    def whole(self, key: PurePosixPath) -> tuple[bytes, str]:
        """A whole object and its e_tag; FileNotFoundError if there is none."""

        def ask(store: Any) -> tuple[bytes, str]:
            found = store.get(str(key))
            return bytes(found.bytes()), str(found.meta["e_tag"])

        data, tag = self._ask(key, ask)
        return self._count(data), tag

    def range(self, key: PurePosixPath, start: int, length: int) -> bytes:
        """Bytes of an object; fewer if it ends before."""
        if not length:
            return b""
        span = {"start": start, "length": length}
        return self._count(self._ask(key, lambda store: bytes(store.get_range(str(key), **span))))

    def tail(self, key: PurePosixPath, length: int) -> tuple[bytes, int, str]:
        """The last bytes of an object, its size and its e_tag."""

        def ask(store: Any) -> tuple[bytes, int, str]:
            found = store.get(str(key), options={"range": {"suffix": length}})
            return bytes(found.bytes()), int(found.meta["size"]), str(found.meta["e_tag"])

        data, size, tag = self._ask(key, ask)
        return self._count(data), size, tag

    def size(self, key: PurePosixPath) -> int:
        """The size of an object; FileNotFoundError if there is none."""
        return self._ask(key, lambda store: int(store.head(str(key))["size"]))

    def modified(self, key: PurePosixPath) -> float:
        """When an object was written, in seconds since 1970 by the store's clock."""
        return self._ask(
            key, lambda store: float(store.head(str(key))["last_modified"].timestamp())
        )

    def below(self, folder: PurePosixPath) -> list[dict[str, Any]]:
        """All objects below a folder, with their path, size and e_tag."""
        return self._ask(
            folder, lambda store: [o for page in store.list(_prefix(folder)) for o in page]
        )

    def entries(self, folder: PurePosixPath) -> tuple[list[str], list[dict[str, Any]]]:
        """What lies right in a folder: paths of folders, and objects."""
        found = self._ask(folder, lambda store: store.list_with_delimiter(_prefix(folder)))
        return sorted(found["common_prefixes"]), list(found["objects"])

    def put(self, key: PurePosixPath, parts: Iterable[Any], over: str | None = None) -> str:
        """Write an object; it appears whole or not at all.

        Args:
            key: The object.
            parts: Its bytes, in order.
            over: What may be replaced: the object of this e_tag; nothing, if empty; anything, if
                None.

        Returns:
            Its e_tag.

        Raises:
            Conflict: If something else is there than what may be replaced.
            FileNotFoundError: If there is no such bucket.
            ResourceError: If the store does not answer, or refuses to; of a bucket for writing.
        """
        from obstore import exceptions

        data = b"".join(bytes(memoryview(part).cast("B")) for part in parts)
        mode: Any = "overwrite" if over is None else {"e_tag": over} if over else "create"
        until = time.monotonic() + _PATIENCE

        def ask(store: Any) -> str:
            if len(data) > _LARGE:
                store = self._large = self._large or self._connect(self._timeout + 2**26 / _SLOWEST)
            while True:
                try:
                    put = store.put(str(key), data, mode=mode, use_multipart=False)
                    return str(put["e_tag"])
                except exceptions.GenericError as error:
                    # The library does not make a conditional request again that was not answered,
                    # for it may have got there; below it is seen whether it did.
                    if over is None or _STATUS.search(str(error)) or time.monotonic() > until:
                        raise
                    time.sleep(0.1)

        try:
            return self._ask(key, ask)
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            pass
        with suppress(FileNotFoundError):
            found, tag = self.whole(key)
            if found == data:
                return tag  # this very request got there, and its answer did not
        raise Conflict(self._at(key))

    def delete(self, keys: list[PurePosixPath]) -> None:
        """Delete objects."""
        if keys:
            self._ask(keys[0], lambda store: store.delete([str(key) for key in keys]))

    def exists(self, key: PurePosixPath) -> bool:
        """Whether there is an object."""
        try:
            self.size(key)
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _count(self, data: bytes) -> bytes:
        with self._lock:
            self.bytes_read += len(data)
        return data

    def _ask(self, key: PurePosixPath, request: Callable[[Any], T]) -> T:
        """Make a request, and say what went wrong in our words: a server's may name credentials.

        The library tries requests again that are refused or not answered, but not those whose
        answer breaks off.

        Args:
            key: What it is about.
            request: Makes it, of the library's store.

        Returns:
            What it brought.

        Raises:
            FileNotFoundError: If there is no such object.
            AlreadyExistsError: If it is on the condition that there is none, and there is.
            PreconditionError: If another condition of it does not hold.
        """
        from obstore import exceptions

        number = 0
        while True:
            try:
                return request(self._store)
            except (FileNotFoundError, exceptions.NotFoundError):
                raise FileNotFoundError(f"{self._at(key)}: no such object") from None
            except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
                raise
            except (exceptions.BaseError, OSError) as error:
                if number == _BROKEN_OFF or not _BODY.search(str(error)):
                    self._refuse(key, error)
            time.sleep(0.1 * 2**number)
            number += 1

    def _refuse(self, key: PurePosixPath, error: BaseException) -> NoReturn:
        from obstore import exceptions

        where, text = self._at(key), str(error)
        if isinstance(error, (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError)):
            why, remedy = "access is denied", "check the credentials in the environment"
        elif "credential" in text.lower() or "169.254.169.254" in text:
            why = "there are no credentials"
            remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment"
        else:
            status = _STATUS.search(text)
            told = f"it answers with status {status[1]}" if status else "it does not answer"
            why = f"{told}, after {_RETRIES} retries or {_PATIENCE:g} s"
            remedy = "try again later, and check AWS_ENDPOINT_URL and the region"
        if self._writing:
            raise ResourceError(
                f"{where}: {why}; every step committed before stays readable: {remedy}, then "
                "append to it again"
            ) from None
        raise Unreachable(f"{where}: {why}; {remedy}", path=self.url, rule="CORE-001") from None

    def _at(self, key: PurePosixPath) -> str:
        return f"s3://{self._bucket}/{key}"


def _prefix(folder: PurePosixPath) -> str:
    return "" if folder == PurePosixPath() else str(folder)


def not_hdf5(url: str) -> None:
    """Refuse HDF5 in a store: it would take a request for each of many small reads.

    Args:
        url: The address.

    Raises:
        NotATrajectory: If it is one of an HDF5 file.
    """
    if url.lower().endswith((".h5", ".hdf5")):
        raise NotATrajectory(
            f"{url}: HDF5 is not read over the network; convert it to Zarr, as in "
            f"trajfile convert run.h5 -o run.zarr, and put that there",
            path=url,
            rule="CORE-001",
        )
