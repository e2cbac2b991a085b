"""Where entries lie: a folder of the user's, bounded in size, the longest unused leaving first."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from trajfile.cache.entry import NOT_AN_ENTRY, Entry, Origin, name_of, save
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Need
from trajfile.errors import TrajfileError
from trajfile.whole_file import whole_file

#: The variable that names another folder; set but empty, it turns the cache off.
VARIABLE = "TRAJFILE_CACHE_DIR"
#: Most bytes of all entries together; one alone may take half.
MOST_BYTES = 512 * 2**20

_SUFFIX = ".measured"
_ABANDONED_SECONDS = 3600


def default_folder() -> Path | None:
    """The folder of this user.

    Returns:
        The folder that `VARIABLE` names; otherwise one under the system's place for caches
        (``$XDG_CACHE_HOME``, ``~/Library/Caches`` or ``%LOCALAPPDATA%``). None if the variable is
        empty, or there is no home.
    """
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Path(named) if named else None
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        top = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        top = home / "Library" / "Caches"
    else:
        top = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return top / "trajfile" / "measured"


class Folder:
    """The entries in a folder. What goes wrong with it never stops an analysis.

    Args:
        path: The folder; made when the first entry is stored.
        most_bytes: Bound on all entries together.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self.path, self.most_bytes = path, most_bytes

    def entries(self, run: str) -> Iterator[Entry]:
        """The entries of a run, the latest first; what is damaged or foreign is passed over.

        Args:
            run: As in `Document`.

        Yields:
            Entries, open until the next is asked for.
        """
        for _, _, path in sorted(self._files(run), reverse=True):
            try:
                entry = Entry(path)
            except NOT_AN_ENTRY:
                continue
            try:
                if entry.document.run == run:
                    yield entry
            finally:
                entry.close()

    def used(self, entry: Entry) -> None:
        """Note that an entry was of use, so that others leave before it."""
        with suppress(OSError):
            os.utime(entry.path)

    def drop(self, entry: Entry) -> None:
        """Remove an entry that another has taken the place of."""
        with suppress(OSError):
            entry.path.unlink()

    def store(
        self, origin: Origin, needs: Iterable[Need], measured: Measurements, device: str
    ) -> None:
        """Add an entry, and drop those that no longer fit.

        Args:
            origin: Of what was measured.
            needs: What was asked.
            measured: What was measured.
            device: What multiplied.
        """
        with suppress(OSError, TrajfileError):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            asked = name_of((origin, sorted(map(name_of, needs))))
            path = self.path / f"{origin.run}-{asked}{_SUFFIX}"
            with whole_file(path) as file:
                save(file, origin, measured, device)
            if path.stat().st_size > self.most_bytes // 2:
                path.unlink()
            self._shrink()

    def _shrink(self) -> None:
        left = self.most_bytes
        for _, size, path in sorted(self._files(), reverse=True):
            left -= size
            if left < 0:
                path.unlink(missing_ok=True)
        for path in self.path.glob(f".*{_SUFFIX}.*.tmp"):  # what a kill left half written
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink(missing_ok=True)

    def _files(self, run: str = "") -> list[tuple[int, int, Path]]:
        """When each entry was last of use, its size, and where it lies."""
        found = []
        with suppress(OSError), os.scandir(self.path) as listed:
            for entry in listed:
                if entry.name.startswith(run) and entry.name.endswith(_SUFFIX):
                    known = entry.stat(follow_symlinks=False)
                    found.append((known.st_mtime_ns, known.st_size, Path(entry.path)))
        return found
