"""Files of a folder that only ever appear whole: written aside, then moved into place."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trajfile.containers.base import Array
from trajfile.containers.full_disk import full_disk_as_resource_error
from trajfile.containers.regular import open_regular, read_document, refuse_link

PARTIAL = ".partial"

_CHUNK = re.compile(r"c\.(\d+)(?:\.\d+)?(?:\.partial)?")
_WHOLE = re.compile(r"c\.(\d{1,15})(?:\.\d{1,15})?")


class Folder:
    """Writes files below a root.

    Args:
        root: The folder.
        power: Whether a file is forced to the disk before it is moved into place.
    """

    def __init__(self, root: Path, *, power: bool):
        self.root = root
        self._power = power

    def put(self, path: Path, parts: Iterable[bytes | Array], *, once: bool = False) -> None:
        """Write a file, replacing it whole.

        Args:
            path: The file.
            parts: Its bytes, in order.
            once: Whether it will not be written again.
        """
        del once
        aside = path.with_name(path.name + PARTIAL)
        with full_disk_as_resource_error(self.root):
            with aside.open("wb") as file:
                for part in parts:
                    file.write(part if isinstance(part, bytes) else part.data)
                if self._power:
                    file.flush()
                    os.fsync(file.fileno())
            aside.replace(path)

    def settle(self) -> None:
        """Nothing: what was put is there."""

    def document(self, path: Path) -> bytes:
        """A small file that is not a link, such as ``zarr.json``."""
        return read_document(path)

    def holds(self, path: Path) -> bool:
        """Whether there is something, be it a link."""
        return os.path.lexists(path)

    def refuse_link(self, path: Path) -> None:
        """Refuse a symbolic link, wherever it leads."""
        refuse_link(path)

    def look(self, path: Path) -> tuple[int, int]:
        """The size of a file, and what of it is no hole; FileNotFoundError if there is none."""
        found = path.lstat()
        blocks = getattr(found, "st_blocks", None)
        # File systems may keep small files without a block.
        stored = found.st_size if blocks is None else min(found.st_size, max(512 * blocks, 4096))
        return found.st_size, stored

    def fetch(self, paths: Iterable[Path]) -> None:
        """Nothing: files are at hand."""

    @contextmanager
    def opened(self, path: Path) -> Iterator[io.FileIO]:
        """Read a file at chosen places, never a link or a pipe."""
        with io.FileIO(open_regular(path, follow=False)) as file:
            yield file

    def make(self, path: Path) -> None:
        """Make a folder and those above it."""
        with full_disk_as_resource_error(self.root):
            path.mkdir(parents=True, exist_ok=True)

    def bands(self, path: Path) -> set[int]:
        """Which rows of chunks an array has files of, whole ones."""
        found = (_WHOLE.fullmatch(file.name) for file in (path.iterdir() if path.is_dir() else ()))
        return {int(match.group(1)) for match in found if match}

    def drop_chunks(self, path: Path, first: int) -> int:
        """Delete the chunk files of an array from row ``first`` on, and files left half-written.

        Args:
            path: The array's folder.
            first: Row of chunks.

        Returns:
            How many rows of chunks there were from there on, whole or not.
        """
        dropped = set()
        with full_disk_as_resource_error(self.root):
            for file in list(path.iterdir()):
                match = _CHUNK.fullmatch(file.name)
                if match and int(match.group(1)) >= first:
                    dropped.add(int(match.group(1)))
                if file.name.endswith(PARTIAL) or (match and int(match.group(1)) >= first):
                    file.unlink()
        return len(dropped)

    def sync(self, path: Path) -> None:
        """Force a folder's names to the disk, so that files moved into it are found there."""
        with full_disk_as_resource_error(self.root):
            sync_folder(path)

    def sync_all(self) -> None:
        """Force the names in the root and in every folder below it to the disk."""
        with full_disk_as_resource_error(self.root):
            for folder, _, _ in os.walk(self.root, topdown=False):
                sync_folder(Path(folder))

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


def sync_folder(path: Path) -> None:
    """Force a folder's names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
