"""The root attributes: whose file it is, which version, and what a reader must know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

from trajfile.errors import Damaged, NotATrajectory, UnsupportedVersion, UsageError
from trajfile.schema import ARCHIVE, FORMAT, FORMAT_VERSION, KNOWN_FEATURES

_UUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")

Attributes = Mapping[str, str | tuple[int, ...] | tuple[str, ...]]


def new_identity(
    uuid: str | None = None, requires: tuple[str, ...] = ()
) -> dict[str, str | tuple[int, ...] | tuple[str, ...]]:
    """Root attributes of a new trajectory.

    Args:
        uuid: Its identity; a random one by default.
        requires: The features without which it cannot be read.

    Returns:
        The attributes.
    """
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "uuid": uuid or str(uuid4()),
        "requires": requires,
        "uses": (),
    }


def is_archive(found: Attributes) -> bool:
    """Whether the root attributes are those of an archive."""
    return ARCHIVE in found.get("requires", ())


def refuse_append(found: Attributes, path: Path | str) -> None:
    """Refuse to append to an archive.

    Args:
        found: The root attributes.
        path: The file, for messages.

    Raises:
        UsageError: If it is one.
    """
    if is_archive(found):
        raise UsageError(
            f"{path} is an archive: its chunks span several steps, so it cannot be appended to; "
            f"make a trajectory of rows of it first, as in `trajfile convert {path} -o run.h5`"
        )


def check_identity(found: Attributes, path: Path | str) -> tuple[str, tuple[int, int]]:
    """Check whether this version may read the file.

    Args:
        found: The root attributes; those missing or of another type left out.
        path: The file, for messages.

    Returns:
        The uuid and the format version. A root attribute that is missing or of another type is
        `Damaged`.

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
    if len(numbers) != 2:
        _wrong("format_version", path)
    if numbers[0] != FORMAT_VERSION[0]:
        raise UnsupportedVersion(
            f"{path} has format version {numbers[0]}.{numbers[1]}; this program reads "
            f"{FORMAT_VERSION[0]}.x: install a newer trajfile",
            path=path,
            location="/",
            rule="CORE-004",
        )
    features = {name: found.get(name) for name in ("requires", "uses")}
    for name, value in features.items():
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            _wrong(name, path)
    uuid = found.get("uuid")
    if not isinstance(uuid, str) or not _UUID.fullmatch(uuid):
        _wrong("uuid", path)
    unknown = sorted({str(name) for name in features["requires"] or ()} - KNOWN_FEATURES)
    if unknown:
        raise UnsupportedVersion(
            f"{path} requires features this version does not know ({', '.join(unknown)}): "
            "install a newer trajfile",
            path=path,
            location="/",
            rule="CORE-005",
        )
    return uuid, (numbers[0], numbers[1])


def _wrong(name: str, path: Path | str) -> NoReturn:
    raise Damaged(
        f"{path}: the root attribute {name!r} is missing or not of the format's type; restore it "
        "from a copy",
        path=path,
        location="/",
        rule="CORE-008",
    )
