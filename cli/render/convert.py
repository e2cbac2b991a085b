"""The screen of `trajfile convert`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from .grid import grid
from .terminal import Terminal
from .text import counted, number, size

if TYPE_CHECKING:
    from trajfile.convert import Converted


def screen(terminal: Terminal, done: Converted) -> Iterator[Text]:
    """What was written, how large it is, and that it says the same.

    Args:
        terminal: Where it is shown.
        done: The conversion.

    Yields:
        Lines to show one below the other.
    """
    rows = ", ".join(f"{name} {count}" for name, count in done.rows.items() if count)
    yield terminal.line((done.path, "title"), f"  {done.kind}")
    stored = size(done.stored_bytes)
    if done.raw_bytes:
        ratio = number(done.stored_bytes / done.raw_bytes)
        stored += f", {ratio} of the {size(done.raw_bytes)} of its rows"
    facts = [
        ("holds", f"{counted(done.commits, 'commit')}; rows: {rows or 'none'}"),
        ("on disk", f"{stored}; the source has {size(done.source_bytes)}"),
        ("uuid", done.uuid),
        ("verified", f"digest {done.digest[:16]}… of the source and of the copy"),
    ]
    if done.resumed_bytes:
        facts.insert(1, ("resumed", f"{size(done.resumed_bytes)} were copied before"))
    cells = [[terminal.text(name), terminal.text(value)] for name, value in facts]
    yield from grid(terminal, cells, indent=2)
