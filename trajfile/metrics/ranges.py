"""Ranges of options, written as the option's type; `trajfile.choice` refuses what lies outside."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

#: More than the rows, steps or samples that any threshold of the metrics is about.
MOST = 1_000_000

Finite = Annotated[float, Meta(description="any finite number")]
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
#: How many times something else.
Factor = Annotated[float, Meta(ge=1)]
#: A part of a whole, none and all included.
Share = Annotated[float, Meta(ge=0, le=1)]
#: A part of a whole that is not empty.
Part = Annotated[float, Meta(gt=0, le=1)]
#: A part of a whole that is neither empty nor all of it.
ProperPart = Annotated[float, Meta(gt=0, lt=1)]
Count = Annotated[int, Meta(ge=1, le=MOST)]
#: A number of things that must be two to be compared.
Several = Annotated[int, Meta(ge=2, le=MOST)]
Step = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, Meta(min_length=1)]


def told(meta: Meta) -> str:
    """A range in words.

    Args:
        meta: Of one of the types above.

    Returns:
        Such as ``above 0 and at most 1``.
    """
    ends = (
        ("at least", meta.ge),
        ("above", meta.gt),
        ("at most", meta.le),
        ("below", meta.lt),
    )
    words = " and ".join(f"{word} {end:.12g}" for word, end in ends if end is not None)
    return words or meta.description or "a text that is not empty"
