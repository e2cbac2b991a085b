"""Files of a folder that only ever appear whole: written aside, then moved into place."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from trajfile.containers.base import Array
from trajfile.containers.full_disk import full_disk_as_resource_error

PARTIAL = ".partial"

_CHUNK = re.compile(r"c\.(\d+)(?:\.\d+)?(\.partial)?")


class Folder:
    """Writes files below a root.

    Args:
        root: The folder.
        power: Whether a file is forced to the disk before it is moved into place.
    """

    def __init__(self, root: Path, *, power: bool):
        self.root = root
        self._power = power

    def put(self, path: Path, parts: Iterable[bytes | Array]) -> None:
        """Write a file, replacing it whole.

        Args:
            path: The file.
            parts: Its bytes, in order.
        """
        aside = path.with_name(path.name + PARTIAL)
        with full_disk_as_resource_error(self.root):
            with aside.open("wb") as file:
                for part in parts:
                    file.write(part if isinstance(part, bytes) else part.data)
                if self._power:
                    file.flush()
                    os.fsync(file.fileno())
            aside.replace(path)

    def make(self, path: Path) -> None:
        """Make a folder and those above it."""
        with full_disk_as_resource_error(self.root):
            path.mkdir(parents=True, exist_ok=True)

    def drop_chunks(self, path: Path, first: int) -> None:
        """Delete the chunk files of an array from row ``first`` on, and those left half-written."""
        with full_disk_as_resource_error(self.root):
            for file in path.iterdir():
                match = _CHUNK.fullmatch(file.name)
                if match and (match.group(2) or int(match.group(1)) >= first):
                    file.unlink()

    def sync(self, path: Path) -> None:
        """Force a folder's names to the disk, so that files moved into it are found there."""
        with full_disk_as_resource_error(self.root):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def stored_bytes(self) -> int:
        """Bytes of all files, links not followed; what vanishes meanwhile counts nothing."""
        total, pending = 0, [self.root]
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(Path(entry.path))
                    elif not entry.name.endswith(PARTIAL):
                        total += entry.stat(follow_symlinks=False).st_size
        return total
