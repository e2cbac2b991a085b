"""The step of a checkpoint, from its name or from what is stated inside.

A checkpoint saved after k updates holds the parameters before update k (counting from 0), which is
the row of step k.
"""

from __future__ import annotations

import re

_WORDS = (
    re.compile(
        r"(?<![A-Za-z])(?:global[_-]?step|steps?|iter(?:ation)?s?|updates?|it)[=_\-.]?(\d+)(?!\d)",
        re.I,
    ),
    re.compile(r"(?<!\d)(\d+)[_-]?(?:steps?|iter(?:ation)?s?)", re.I),
)
_EPOCH = re.compile(r"(?<![A-Za-z])(?:epochs?|ep)[=_\-.]?(\d+)(?!\d)", re.I)
_NUMBER = re.compile(r"(?<!\d)(?<!\d\.)(\d+)(?!\d|\.\d)")
_VERSION = re.compile(r"(?<![A-Za-z])v\d+(?:\.\d+)*", re.I)
_SHARD = re.compile(r"-?\d+-of-\d+")
_MOST_DIGITS = 18


def step_in_name(stem: str) -> tuple[int | None, str]:
    """The number by which a name orders a checkpoint.

    Args:
        stem: The name without its suffixes.

    Returns:
        The number and how it was found: ``step`` after a word for steps, ``epoch`` after a word
        for epochs, ``number`` if it is the last number of the name, ``none`` if there is none.
    """
    text = _VERSION.sub("", _SHARD.sub("", stem))
    for pattern in _WORDS:
        found = pattern.findall(text)
        if found and len(found[-1]) <= _MOST_DIGITS:
            return int(found[-1]), "step"
    epochs = _EPOCH.findall(text)
    if epochs and len(epochs[-1]) <= _MOST_DIGITS:
        return int(epochs[-1]), "epoch"
    numbers = [n for n in _NUMBER.findall(text) if len(n) <= _MOST_DIGITS]
    return (int(numbers[-1]), "number") if numbers else (None, "none")


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts ``step_9`` before ``step_10``."""
    parts = re.split(r"(\d+)", name)
    return tuple(
        (1, int(part[:300]), part) if part.isascii() and part.isdigit() else (0, 0, part)
        for part in parts
    )
