"""Where ``--json`` goes: a file written whole, or stdout."""

from __future__ import annotations

import os
from pathlib import Path


def check_json(target: str | None) -> None:
    """Refuse before the work, rather than after it, a document that can have no place.

    Args:
        target: As given: a path, ``-`` for stdout, or None.

    Raises:
        UsageError: If nothing can be written there.
    """
    from trajfile.errors import UsageError

    if target is None or target == "-":
        return
    if not target:
        raise UsageError("--json is empty; give the path of a file to write, or - for stdout")
    path = Path(target)
    if path.is_dir():
        raise UsageError(f"--json {path} is a folder; give the path of a file to write")
    if not path.parent.is_dir():
        raise UsageError(f"--json {path}: the folder {path.parent} does not exist; create it")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"--json {path}: the folder {path.parent} cannot be written to")


def write_json(target: str, text: str) -> None:
    """Write a JSON document to a file or, for ``-``, to stdout.

    Args:
        target: A path, or ``-``.
        text: The document.
    """
    from trajfile.whole_file import whole_file

    if target == "-":
        print(text)
        return
    with whole_file(Path(target)) as file:
        file.write(f"{text}\n".encode())
