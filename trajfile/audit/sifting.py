"""Putting many names in order, and telling those seen before, without holding them in memory.

What does not fit in a few thousand goes to a temporary database of SQLite, which keeps a bounded
part of it in memory.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from hashlib import blake2b
from itertools import chain, islice

#: So many names are put in order in memory.
IN_MEMORY = 5_000


def fingerprint(text: str) -> bytes:
    """Sixteen bytes that stand for a path."""
    return blake2b(os.fsencode(text), digest_size=16).digest()


class Seen:
    """Which paths came before."""

    def __init__(self) -> None:
        self._early: set[bytes] = set()
        self._late: sqlite3.Connection | None = None

    def is_new(self, path: str) -> bool:
        """Whether a path has not been asked about; from now on it has."""
        key = fingerprint(path)
        if key in self._early:
            return False
        if len(self._early) < IN_MEMORY:
            self._early.add(key)
            return True
        if self._late is None:
            self._late = _temporary("CREATE TABLE seen (key BLOB PRIMARY KEY) WITHOUT ROWID")
        return self._late.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount == 1

    def close(self) -> None:
        """Let go of what is kept."""
        if self._late is not None:
            self._late.close()


def in_order(names: Iterable[str]) -> Iterator[str]:
    """Names sorted by their bytes.

    Args:
        names: Any number of them.

    Yields:
        Each of them, as often as it came.
    """
    drawn = iter(names)
    first = list(islice(drawn, IN_MEMORY))
    more = next(drawn, None)
    if more is None:
        yield from sorted(first, key=os.fsencode)
        return
    with closing(_temporary("CREATE TABLE names (name BLOB)")) as table:
        every = chain(first, [more], drawn)
        table.executemany("INSERT INTO names VALUES (?)", ((os.fsencode(n),) for n in every))
        first.clear()
        for (name,) in table.execute("SELECT name FROM names ORDER BY name"):
            yield os.fsdecode(name)


def _temporary(schema: str) -> sqlite3.Connection:
    table = sqlite3.connect("", isolation_level=None)  # a file of its own, gone when it is closed
    table.execute("PRAGMA journal_mode = OFF")
    table.execute("PRAGMA synchronous = OFF")
    table.execute("BEGIN")
    table.execute(schema)
    return table
