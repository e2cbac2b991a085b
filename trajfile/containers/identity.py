"""The root attributes: whose file it is, which version, and what a reader must know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from trajfile.errors import NotATrajectory, UnsupportedVersion
from trajfile.schema import FORMAT, FORMAT_VERSION, KNOWN_FEATURES

Attributes = Mapping[str, str | tuple[int, ...] | tuple[str, ...]]


def new_identity() -> dict[str, str | tuple[int, ...] | tuple[str, ...]]:
    """Root attributes of a new trajectory."""
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "uuid": str(uuid4()),
        "requires": (),
        "uses": (),
    }


def check_identity(found: Attributes, path: Path) -> tuple[str, tuple[int, int]]:
    """Check whether this version may read the file.

    Args:
        found: The root attributes; those missing or of another type left out.
        path: The file, for messages.

    Returns:
        The uuid and the format version.

    Raises:
        NotATrajectory: If the file is some other program's.
        UnsupportedVersion: If a newer version or an unknown feature is needed to read it.
    """
    version = found.get("format_version")
    if found.get("format") != FORMAT:
        raise NotATrajectory(
            f"{path} was written by another program: it lacks the root attribute format={FORMAT!r}",
            path=path,
            rule="CORE-003",
        )
    numbers = [part for part in version or () if isinstance(part, int)]
    if len(numbers) != 2 or numbers[0] != FORMAT_VERSION[0]:
        shown = ".".join(str(part) for part in version) if isinstance(version, tuple) else version
        raise UnsupportedVersion(
            f"{path} has format version {shown}; this program reads {FORMAT_VERSION[0]}.x: "
            "install a newer trajfile",
            path=path,
            location="/",
            rule="CORE-004",
        )
    unknown = sorted({str(name) for name in found.get("requires", ())} - KNOWN_FEATURES)
    if unknown:
        raise UnsupportedVersion(
            f"{path} requires features this version does not know ({', '.join(unknown)}): "
            "install a newer trajfile",
            path=path,
            location="/",
            rule="CORE-005",
        )
    return str(found.get("uuid", "")), (numbers[0], numbers[1])
