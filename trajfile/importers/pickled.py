"""What a pickle becomes when it is read as a text and not as a program: plain data, and notes.

Where a pickle would import and call code there is an `Inert` note of what was asked for. No key is
hashed that could be nested.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class PickleError(ValueError):
    """Bytes that are no pickle of plain data."""


class Name(NamedTuple):
    """Code that a pickle mentions: a class or function, not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        """Dotted, as in Python."""
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Inert:
    """An object that was not built.

    Attributes:
        maker: What would have been called.
        args: With which arguments.
        state: The state that would have been set on it.
        items: What would have been set in it by key.
        elements: What would have been appended to it.
    """

    maker: Any
    args: Any = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


_PLAIN_KEYS = (str, int, float, bytes, bool, type(None))


def plain_key(key: Any) -> Any:
    """A key that is hashed without descending into it; a tuple's own parts may be plain keys.

    Args:
        key: Any object of a pickle.

    Returns:
        The same key; a `Key` that holds it if it is anything else.
    """
    plain = isinstance(key, _PLAIN_KEYS) and not isinstance(key, tuple)
    if plain or (type(key) is tuple and all(isinstance(part, _PLAIN_KEYS) for part in key)):
        return key
    return Key(key)


class Key:
    """A key of another kind, the same only as itself.

    Attributes:
        held: The key.
    """

    def __init__(self, held: Any):
        self.held = held
