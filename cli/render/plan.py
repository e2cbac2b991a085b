"""The screen of `trajfile analyze --plan`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from .grid import grid
from .terminal import Terminal

if TYPE_CHECKING:
    from trajfile.engine.plan import Plan


def screen(terminal: Terminal, path: str, plan: Plan) -> Iterator[Text]:
    """What a pass would read, how, and what it would leave out.

    Args:
        terminal: Where it is shown.
        path: The run, as given.
        plan: The plan.

    Yields:
        Lines to show one below the other.
    """
    yield terminal.line(("Plan for ", "accent"), (path, "title"))
    rows = []
    for label, value in plan.describe():
        style = "warn" if label.startswith(("skips ", "refused ")) else ""
        rows.append((terminal.text(label, style), terminal.text(value)))
    yield from grid(terminal, rows)
    yield Text()
    yield terminal.line("Nothing was read but names and steps; without --plan the pass runs.")
