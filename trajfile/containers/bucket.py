"""Objects of an S3-compatible store: ranges are read with retries, puts are whole.

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
from datetime import timedelta
from pathlib import PurePosixPath
from threading import Lock
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from trajfile.errors import FormatError, NotATrajectory, UsageError

#: Requests under way at a time.
REQUESTS = 16
#: How long a request may take, and how often and for how long it is tried again.
_TIMEOUT, _RETRIES, _PATIENCE = 30.0, 8, 120.0
#: How often a request is made again whose answer broke off.
_BROKEN_OFF = 4
_BODY = re.compile("response body|error decoding", re.I)
_STATUS = re.compile(r"\b([45]\d\d)\b")

#: Address of a run in a store, whose parts go no further than names of objects.
REMOTE = re.compile(r"s3://", re.I)

T = TypeVar("T")


class Unreachable(FormatError):
    """A store that does not answer, or refuses to."""


class Bucket:
    """The objects of a store below an address.

    Args:
        url: ``s3://bucket/prefix``.

    Raises:
        UsageError: If the address holds credentials or names no bucket, or the library for such
            stores is not installed.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise UsageError(
                f"s3://…{parts.path}: an address may not hold credentials; set AWS_ACCESS_KEY_ID "
                "and AWS_SECRET_ACCESS_KEY in the environment"
            )
        if not parts.netloc:
            raise UsageError(f"{url} names no bucket: expected s3://bucket/path/run.zarr")
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise UsageError(
                f"{url} lies in a store: install the library for it with "
                "pip install 'trajfile[remote]'"
            ) from error
        self.url = f"s3://{parts.netloc}/{parts.path.strip('/')}"
        self.prefix = PurePosixPath(parts.path.strip("/"))
        timeout = float(os.environ.get("TRAJFILE_REMOTE_TIMEOUT") or _TIMEOUT)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        options: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
        self._store: Any = S3Store(
            parts.netloc,
            **options,
            client_options={
                "timeout": timedelta(seconds=timeout),
                "connect_timeout": timedelta(seconds=timeout),
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
        self.bytes_read = 0
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None

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

    def range(self, key: PurePosixPath, start: int, length: int) -> bytes:
        """Bytes of an object; fewer if it ends before."""
        if not length:
            return b""
        span = {"start": start, "length": length}
        return self._count(self._ask(key, lambda store: bytes(store.get_range(str(key), **span))))

    def tail(self, key: PurePosixPath, length: int) -> tuple[bytes, int]:
        """The last bytes of an object, and its size."""

        def ask(store: Any) -> tuple[bytes, int]:
            found = store.get(str(key), options={"range": {"suffix": length}})
            return bytes(found.bytes()), int(found.meta["size"])

        data, size = self._ask(key, ask)
        return self._count(data), size

    def size(self, key: PurePosixPath) -> int:
        """The size of an object; FileNotFoundError if there is none."""
        return self._ask(key, lambda store: int(store.head(str(key))["size"]))

    def below(self, folder: PurePosixPath) -> list[dict[str, Any]]:
        """All objects below a folder, with their path, size and e_tag."""
        return self._ask(
            folder, lambda store: [o for page in store.list(str(folder)) for o in page]
        )

    def entries(self, folder: PurePosixPath) -> tuple[list[str], list[dict[str, Any]]]:
        """What lies right in a folder: paths of folders, and objects."""
        found = self._ask(folder, lambda store: store.list_with_delimiter(str(folder)))
        return sorted(found["common_prefixes"]), list(found["objects"])

    def put(self, key: PurePosixPath, parts: Iterable[Any]) -> None:
        """Write an object; it appears whole or not at all."""
        data = b"".join(bytes(memoryview(part).cast("B")) for part in parts)
        self._ask(key, lambda store: store.put(str(key), data))

    def delete(self, keys: list[PurePosixPath]) -> None:
        """Delete objects."""
        if keys:
            self._ask(keys[0], lambda store: store.delete([str(key) for key in keys]))

    def delete_all(self) -> None:
        """Delete everything below the address."""
        self.delete([PurePosixPath(found["path"]) for found in self.below(self.prefix)])

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
        """
        from obstore import exceptions

        number = 0
        while True:
            try:
                return request(self._store)
            except (FileNotFoundError, exceptions.NotFoundError):
                raise FileNotFoundError(f"{self._at(key)}: no such object") from None
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
        raise Unreachable(f"{where}: {why}; {remedy}", path=self.url, rule="CORE-001") from None

    def _at(self, key: PurePosixPath) -> str:
        return f"{self.url.split('/', 3)[0]}//{self.url.split('/', 3)[2]}/{key}"


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
