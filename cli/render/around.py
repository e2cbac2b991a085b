"""What a report says around an event: its window, and the tensors that moved first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from .grid import grid
from .terminal import Terminal
from .text import count, counted, number, shorten, steps_between

if TYPE_CHECKING:
    from trajfile.report import Around, Mover

_MOST_MOVERS = 5


def window(terminal: Terminal, around: Around) -> Text:
    """The window in one line.

    Args:
        terminal: Where it is shown.
        around: The window.

    Returns:
        The line.
    """
    steps = steps_between(around.first_step, around.last_step)
    return terminal.line(
        (f"around step {count(around.step)}", "accent"),
        f": {steps}, {counted(around.before, 'snapshot')} before, {count(around.after)} after",
    )


def first_movers(terminal: Terminal, around: Around) -> list[str]:
    """The tensors that moved first, the first of them at the top.

    Args:
        terminal: Where it is shown.
        around: The window.

    Returns:
        A heading and a line a tensor, cut to the terminal's width; nothing if none moved.
    """
    shown = around.movers[:_MOST_MOVERS]
    if not shown:
        return []
    widest = max(len("moved first"), min(max(len(m.tensor) for m in shown), terminal.width // 2))
    heading = ["Moved first", _onset_title(around), "× its usual step"]
    rows = [[terminal.text(cell, "accent") for cell in heading]]
    rows += [
        [
            terminal.text(shorten(m.tensor, widest)),
            terminal.text(_onset(m)),
            terminal.text(_size(m)),
        ]
        for m in shown
    ]
    if left := len(around.movers) - len(shown):
        rows[0][2].append_text(terminal.text(f"  ({len(shown)} of {len(shown) + left})", "aside"))
    return terminal.lines(*grid(terminal, rows), fit="cut")


def _onset_title(around: Around) -> str:
    adjacent = around.widest_stride == 1
    return "at step" if adjacent else "at steps"


def _onset(mover: Mover) -> str:
    """The update that did it between adjacent snapshots, else from which snapshot to which."""
    if mover.onset_step is None or mover.seen_step is None:
        return number(mover.non_finite_step)
    if mover.seen_step == mover.onset_step + 1:
        return count(mover.onset_step)
    return steps_between(mover.onset_step, mover.seen_step)


def _size(mover: Mover) -> str:
    parts = []
    if mover.onset_step is not None:
        parts.append("lay still before" if mover.factor is None else f"{number(mover.factor)} ×")
    if mover.non_finite_step is not None:
        stream = "" if mover.non_finite_stream == "params" else f"{mover.non_finite_stream} "
        at = f" from step {count(mover.non_finite_step)}" if parts else ""
        parts.append(f"{stream}not finite{at}")
    return "; ".join(parts)
