"""The arrays of a trajectory in a store: nothing is left to fail once a commit is there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

from trajfile.containers.identity import Attributes
from trajfile.containers.objects import Objects
from trajfile.containers.zarr_store import ZarrStore
from trajfile.errors import ResourceError


class RemoteStore(ZarrStore):
    """The arrays below one address.

    Args:
        objects: What lies there; closed with this.
        identity: The root attributes.
        writable: Whether to append.
        new: Whether they are being created, so that there was no writer before.
    """

    _hold = True

    def __init__(
        self, objects: Objects, identity: Attributes, *, writable: bool, new: bool = False
    ):
        # It stands for a path: what reads and writes there knows no files.
        root = cast("Path", objects.root)
        super().__init__(root, objects, objects.bucket.url, identity, writable=writable)
        self._objects = objects
        self.fences = writable and not new
        self.left_by_a_kill = objects.lease is not None and objects.lease.taken_over and not new

    def flush(self, keys: Iterable[str]) -> None:
        """Put the arrays into the store, so that they survive a kill."""
        keys = list(keys)
        self._grow(keys)
        self._flush_tables(keys)  # last: once a commit is in a store, nothing is left to fail
        self._files.settle()

    def begin(self) -> None:
        """Nothing: they have their names."""

    def undo(self) -> None:
        """Take a creation back that failed."""
        self._writable = False
        with contextlib.suppress(ResourceError):
            self._objects.clear()
        self.close()

    def let_go(self) -> None:
        """After a failure to write: nothing is on its way."""
        self._objects.forget()

    def revive(self) -> None:
        """Forget what a failed append left in memory."""
        self._objects.forget()
        super().revive()

    def close(self) -> None:
        """Trim the shapes to the rows, and let go of the store."""
        super().close()
        self._objects.close()

    def _read_bands(self, read: Callable[[int], None], bands: range, nbytes: int) -> None:
        del nbytes
        for _ in self._objects.bucket.pool.map(read, bands):
            pass
