"""What may reach a terminal: text from a file made harmless, and numbers a person can read.

Screens are built from `rich.text.Text`, whose content is never parsed as markup; the console has
markup, highlighting and emoji codes off. What remains is characters that act on the terminal
itself, and those `clean` makes visible instead.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from typing import Any

#: Separates thousands: narrow, unbreakable, and dropped again where the output is piped.
THIN = "\u202f"

#: Categories that draw nothing or act on what follows: controls, formats (bidirectional
#: overrides, zero-width characters), surrogates, private use, unassigned, line separators.
_ACTIVE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def clean(value: object) -> str:
    r"""Text from a file or a user, safe to print: what acts on a terminal is spelled out.

    Args:
        value: Anything; its ``str`` is taken. Names, paths, metadata, error messages.

    Returns:
        One line. An escape character reads ``\x1b``, a line feed ``\n``, a surrogate ``\udcff``.
    """
    text = str(value)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _ACTIVE and char != THIN
        else char
        for char in text
    )


def shorten(text: str, width: int) -> str:
    """At most `width` characters; what is left out of the middle is marked by an ellipsis."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def clip(text: str, width: int) -> str:
    """At most `width` characters; words left out of the end are marked by an ellipsis."""
    if len(text) <= width:
        return text
    between = text.rfind(" ", 0, width - 1)
    # A number that is cut is another number; a single long word is cut nevertheless.
    return f"{text[:between]} …" if between > width // 2 else f"{text[: width - 1]}…"


def count(value: int) -> str:
    """An integer with thin separators between thousands, from five digits on."""
    return f"{value:,}".replace(",", THIN) if abs(value) >= 10_000 else str(value)


def counted(value: int, noun: str) -> str:
    """A count and its noun: ``1 tensor``, ``6 tensors``."""
    return f"{count(value)} {noun}" + ("" if value == 1 else "s")


def number(value: Any, digits: int = 3) -> str:
    """A summary value in few characters.

    Args:
        value: None, bool, int, float or str.
        digits: Significant digits of a float.

    Returns:
        ``-`` for None, ``yes``/``no``, separated integers, 3-4 significant digits for floats.
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if not isinstance(value, float):
        return clean(value).replace("_", " ")
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if -4 < magnitude < 4:
        text = f"{value:.{max(digits - 1 - magnitude, 0)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}"


def percent(fraction: float) -> str:
    """A fraction in percent, with one decimal below ten and none of the tiny told apart."""
    value = 100 * fraction
    if 0 < value < 0.01:
        return "<0.01%"
    return f"{value:.0f}%" if value >= 10 or value == 0 else f"{number(value, 2)}%"


def size(count_of_bytes: int) -> str:
    """A number of bytes: ``812 B``, ``18.8 KiB``, ``2.9 GiB``."""
    value = float(count_of_bytes)
    for unit in _UNITS:
        if value < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{count_of_bytes} B" if unit == "B" else f"{value:.{1 if value < 100 else 0}f} {unit}"


def seconds(value: float) -> str:
    """A duration: ``0.31 s``, ``12 s``, ``3 min 20 s``."""
    if value < 60:
        return f"{number(value, 2)} s"
    return f"{int(value // 60)} min {int(value % 60)} s"


def listed(items: Iterable[object]) -> str:
    """Items separated by commas, each made harmless."""
    return ", ".join(clean(item) for item in items)


def steps_between(first: int | None, last: int | None) -> str:
    """A range of steps, or one step, or ``none``."""
    if first is None or last is None:
        return "none"
    return count(first) if first == last else f"{count(first)}–{count(last)}"
