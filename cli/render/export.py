"""The screen of `trajfile export`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from .grid import grid
from .terminal import Terminal
from .text import count, counted, shorten, size, steps_between

if TYPE_CHECKING:
    from trajfile.export import Exported

_LISTED = 20


def screen(terminal: Terminal, written: Exported) -> Iterator[Text]:
    """What was written, tensor by tensor, and what must be known to read it back.

    Args:
        terminal: Where it is shown.
        written: The export.

    Yields:
        Lines to show one below the other.
    """
    tensors = written.tensors
    held = f": {counted(len(tensors), 'tensor')} of {tensors[0].stream}, {size(written.nbytes)}"
    yield terminal.line((written.path, "title"), held)
    rows = [
        [
            terminal.text(shorten(one.name, max(terminal.width - 60, 20))),
            terminal.text(f"{counted(len(one.rows), 'row')} × {_shape(one.spec.shape)}"),
            terminal.text(one.spec.dtype),
            terminal.text(f"steps {steps_between(int(one.steps[0]), int(one.steps[-1]))}"),
        ]
        for one in tensors[:_LISTED]
    ]
    if len(tensors) > _LISTED:
        rows.append([terminal.text(f"and {count(len(tensors) - _LISTED)} more")])
    yield from grid(terminal, rows, indent=2)
    for remark in written.remarks:
        yield terminal.line(remark)


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape)) or "scalar"
