"""Sizes in bytes, as people write them and as they read them."""

from __future__ import annotations

import re

from trajfile.errors import UsageError

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "t": 2**40,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_bytes(size: str | int) -> int:
    """A size such as ``2GiB``, ``512MB``, ``1.5g`` or a plain number of bytes.

    Args:
        size: The size. A bare letter (k, m, g, t) is a binary unit.

    Returns:
        Bytes, positive.

    Raises:
        UsageError: If it is not a size, or not positive.
    """
    found = _SIZE.fullmatch(str(size))
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None or isinstance(size, bool):
        raise UsageError(f"{size!r} is not a size in bytes; write it like 2GiB, 512MB or 1000000.")
    count = int(float(found[1]) * unit) if "." in found[1] else int(found[1]) * unit
    if count <= 0:
        raise UsageError(f"the size {size!r} must be positive; write it like 2GiB or 512MB.")
    return count


def format_bytes(count: int) -> str:
    """A size for a person: ``1.5 GiB``, ``640 B``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"
