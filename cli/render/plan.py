"""The screen of `trajfile analyze --plan`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from .grid import grid
from .terminal import Terminal

if TYPE_CHECKING:
    from trajfile.engine.plan import Plan


def screen(terminal: Terminal, path: str, plan: Plan, *, looked: bool = False) -> Iterator[Text]:
    """What a pass would read, how, and what it would leave out.

    Args:
        terminal: Where it is shown.
        path: The run, as given.
        plan: The plan.
        looked: Whether the run was looked through for damaged rows.

    Yields:
        Lines to show one below the other.
    """
    yield terminal.line(("Plan for ", "accent"), (path, "title"))
    rows = []
    for label, value in plan.describe():
        style = "warn" if label.startswith(("skips ", "refused ")) else ""
        rows.append((terminal.text(label, style), terminal.text(value)))
    rows += [
        (terminal.text("leaves out", "warn"), terminal.text(words))
        for words in plan.header.left_out.values()
    ]
    yield from grid(terminal, rows)
    yield Text()
    read = "names and steps" if not looked else "what was looked through for damage"
    yield terminal.line(f"Nothing was read but {read}; without --plan the pass runs.")
