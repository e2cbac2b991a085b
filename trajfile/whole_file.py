"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from trajfile.containers.full_disk import FULL
from trajfile.errors import ResourceError, UsageError


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse before the work, rather than after it, what can have no place.

    Args:
        path: The file to be written.
        overwrite: Whether it may exist.

    Raises:
        UsageError: If it is a folder, exists, or its folder is missing or not to be written to.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the path of a file to write")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already; pass --overwrite (overwrite=True) to replace it")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist; create it")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"the folder {path.parent} cannot be written to")


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears in its place only once all of it is there.

    A reader never meets half of it, and an error leaves what was there before.

    Args:
        path: The file; replaced if it exists. What is no regular file (a link, pipe or device)
            stays what it is and is written through.

    Yields:
        The file to write to; it can be sought in unless the path is a pipe or device.

    Raises:
        ResourceError: If the disk is full.
        OSError: If the system refuses to write for another reason.
    """
    if path.is_symlink() or (path.exists() and not path.is_file()):
        with path.open("wb") as file:
            yield file
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)  # as open() would have made it, not private as mkstemp does
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno not in FULL:
            raise
        raise ResourceError(
            f"the disk is full while writing {path}; make room and run it again"
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
