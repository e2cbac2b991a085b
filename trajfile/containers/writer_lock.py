"""At most one writer a folder; the lock goes with the process that holds it."""

from __future__ import annotations

import os
from pathlib import Path

from trajfile.errors import ResourceError

try:
    import fcntl
except ImportError:  # a system without such locks: two writers are then not told apart
    fcntl = None  # type: ignore[assignment] # stands for the missing module


class WriterLock:
    """Holds a folder until closed.

    Raises:
        ResourceError: If another writer holds it.
    """

    def __init__(self, folder: Path):
        self._descriptor: int | None = None
        if fcntl is None:
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise ResourceError(
                f"{folder} is open in another writer: wait for it, or record into a new trajectory"
            ) from error
        self._descriptor = descriptor

    def close(self) -> None:
        """Let go of the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
