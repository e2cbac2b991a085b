"""The path of a run as users give it."""

from __future__ import annotations

import os
import re
from pathlib import Path

from trajfile.errors import UsageError

_REMOTE = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+://")


def run_path(path: object) -> Path | str:
    """The path of a run, or its address in a store.

    Args:
        path: Text or a path object.

    Returns:
        An address as text, any other as a path; whether anything is there is not looked at.

    Raises:
        UsageError: If it is neither.
    """
    return in_store(path) or local_path(path)


def in_store(path: object) -> str | None:
    """The address of a run in an S3-compatible store; None if it is none.

    Args:
        path: Text or a path object.

    Returns:
        ``s3://bucket/path``.
    """
    text = path if isinstance(path, str) else ""
    return text if text[:5].lower() == "s3://" else None


def local_path(path: object) -> Path:
    """The path of a run, which lies on a local or mounted disk.

    Args:
        path: Text or a path object.

    Returns:
        The path; whether anything is there is not looked at.

    Raises:
        UsageError: If it is no path, is empty, or is the address of another machine.
    """
    if not isinstance(path, (str, os.PathLike)) or isinstance(text := os.fspath(path), bytes):
        raise UsageError(f"a run is given by the path of a file or folder, found {path!r}")
    if not text:
        raise UsageError("the path of the run is empty; give a .h5 file or a .zarr folder")
    if _REMOTE.match(text):
        others = "" if in_store(text) else " but those at s3://"
        raise UsageError(
            f"{text}: remote runs are not supported here{others}; copy it to a local path"
        )
    return Path(text)
