"""The screen of `trajfile analyze --plan`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .terminal import Terminal

if TYPE_CHECKING:
    from trajfile.engine.plan import Plan


def screen(terminal: Terminal, path: str, plan: Plan) -> Iterator[RenderableType]:
    """What a pass would read, how, and what it would leave out.

    Args:
        terminal: Where it is shown.
        path: The run, as given.
        plan: The plan.

    Yields:
        Blocks to show one after another.
    """
    yield terminal.line(("Plan for ", "accent"), (path, "title"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in plan.describe():
        style = "warn" if label.startswith(("skips ", "refused ")) else ""
        grid.add_row(terminal.text(label, style), terminal.text(value))
    yield grid
    yield Text()
    yield terminal.line("Nothing was read but names and steps; without --plan the pass runs.")
