"""Opening files that may have been put there to mislead."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NoReturn

from trajfile.errors import Damaged, Unsafe

# Absent on some systems, where nothing can then be refused by these means.
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_NO_BLOCK = getattr(os, "O_NONBLOCK", 0)
_MAX_DOCUMENT_BYTES = 16 * 2**20
_BINARY = getattr(os, "O_BINARY", 0)


def open_regular(path: Path, *, follow: bool = True) -> int:
    """Open a file for reading, never waiting on a pipe or device.

    Args:
        path: The file.
        follow: Whether the last component may be a symbolic link.

    Returns:
        A file descriptor. What is not a regular file is refused as `Unsafe`.

    Raises:
        FileNotFoundError: If there is none.
        Damaged: If it cannot be opened.
    """
    if not follow:
        refuse_link(path)
    try:
        flags = os.O_RDONLY | _NO_BLOCK | _BINARY | (0 if follow else _NO_FOLLOW)
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Damaged(
            f"{path} cannot be opened: {error.strerror}; check its permissions",
            path=path,
            rule="CORE-006",
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        _refuse(path, "is not a regular file", "CORE-010")
    return descriptor


def refuse_link(path: Path) -> None:
    """Refuse a symbolic link, wherever it leads."""
    if path.is_symlink():
        _refuse(path, "is a symbolic link", "ZR-001")


def read_document(path: Path) -> bytes:
    """Read a small file that is not a link, such as ``zarr.json``.

    Args:
        path: The file.

    Returns:
        Its bytes. More than 16 MiB are refused as `Unsafe`.
    """
    with os.fdopen(open_regular(path, follow=False), "rb") as file:
        data = file.read(_MAX_DOCUMENT_BYTES + 1)
    if len(data) > _MAX_DOCUMENT_BYTES:
        _refuse(path, f"has more than {_MAX_DOCUMENT_BYTES} bytes", "ZR-002")
    return data


def _refuse(path: Path, what: str, rule: str) -> NoReturn:
    raise Unsafe(
        f"{path} {what}, which a safe reader does not follow: read only trajectories from a "
        "conforming writer",
        path=path,
        rule=rule,
    )
