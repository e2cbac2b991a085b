"""Where a run may be recorded: at a free path, or over a trajectory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from trajfile.containers import exists, open_container
from trajfile.errors import FormatError, UsageError


def is_taken(path: Path | str, mode: str) -> bool:
    """Check that a path can be recorded to.

    Args:
        path: The path; in a store an address.
        mode: ``x``, ``w`` or ``a``, as `trajfile.Writer` takes it.

    Returns:
        Whether there is something, which `mode` replaces or continues.

    Raises:
        UsageError: If there is something else, or no folder to create it in.
    """
    taken = exists(path)
    if taken and mode == "x":
        raise UsageError(
            f"{path} exists already: pass mode='a' to continue it, mode='w' to replace "
            "it, or another path"
        )
    if taken and mode == "w":
        check_replaceable(path)
    if isinstance(path, Path) and not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder: create it first")
    return taken


def check_replaceable(path: Path | str) -> None:
    """Refuse to replace what is neither empty nor a trajectory.

    Args:
        path: What exists.

    Raises:
        UsageError: If it does not read as a trajectory.
    """
    if isinstance(path, Path) and _is_empty(path):
        return
    try:
        open_container(path).close()
    except FormatError as error:
        raise UsageError(
            f"{path} will not be replaced, because it does not read as a trajectory ({error}); "
            "remove it yourself if it may go"
        ) from error


def _is_empty(path: Path) -> bool:
    with suppress(OSError):
        if path.is_dir():
            return not any(path.iterdir())
        return path.is_file() and path.stat().st_size == 0
    return False
