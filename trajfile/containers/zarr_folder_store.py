"""The arrays of a Zarr folder: what has its name was written before what speaks of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from trajfile.containers.folder import Folder, sync_folder
from trajfile.containers.full_disk import full_disk_as_resource_error
from trajfile.containers.identity import Attributes
from trajfile.containers.threads import Threads
from trajfile.containers.writer_lock import WriterLock
from trajfile.containers.zarr_store import ZarrStore

_THREADS = 4
_PARALLEL_BYTES = 2**23


class FolderStore(ZarrStore):
    """The arrays of one folder.

    Args:
        path: The folder.
        identity: Its root attributes.
        writable: Whether to append.
        power: Whether files are forced to the disk.
        aside: Where the folder lies until `begin`, if it is being created.
    """

    def __init__(
        self,
        path: Path,
        identity: Attributes,
        *,
        writable: bool,
        power: bool,
        aside: Path | None = None,
    ):
        root = aside or path
        super().__init__(root, Folder(root, power=power), str(path), identity, writable=writable)
        self._aside = aside is not None
        self._power = power
        self._lock = WriterLock(root) if writable else None
        self._threads = Threads(_THREADS, "trajfile-zarr")

    def discard(self, key: str, rows: int) -> int:
        """Forget rows from ``rows`` on, and what a kill left half-written; count those of lanes."""
        if self._documents.of(key).shape[0] > rows and not self._aside:
            self.left_by_a_kill = True  # closing trims shapes
        dropped = super().discard(key, rows)
        self.left_by_a_kill |= dropped > 0
        return dropped

    def flush(self, keys: Iterable[str]) -> None:
        """Hand the arrays to the operating system, so that they survive a kill."""
        keys = list(keys)
        self._flush_tables(keys)  # first: what gets its name before a commit is synced before it
        self._grow(keys)

    def begin(self) -> None:
        """A new folder gets its name; readers may come from here on."""
        if not self._aside:
            return
        path = Path(self.path)
        if self._power:
            self._files.sync_all()
        with full_disk_as_resource_error(path):
            self._root.rename(path)
            self._root, self._aside = path, False
            self._files = Folder(path, power=self._power)
            self._documents.root, self._documents.files = path, self._files
            self._tables.clear()  # they know the old name
            if self._power:
                sync_folder(path.parent)

    def undo(self) -> None:
        """Take a creation back that failed."""
        self._writable = False
        self.close()
        shutil.rmtree(self._root, ignore_errors=True)

    def let_go(self) -> None:
        """Nothing: no file is open between two writes."""

    def close(self) -> None:
        """Trim the shapes to the rows, and let go of the folder."""
        self._threads.close()
        super().close()
        if self._lock is not None:
            self._lock.close()

    def _read_bands(self, read: Callable[[int], None], bands: range, nbytes: int) -> None:
        if nbytes < _PARALLEL_BYTES or len(bands) == 1:
            for band in bands:
                read(band)
            return
        self._threads.each(read, bands)
