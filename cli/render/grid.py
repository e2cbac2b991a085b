"""Columns of text, without rules or boxes: what `grep` and `awk` can take apart.

Written out by hand because `info` must start in a blink, and a full table layout costs as much
time as opening the file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rich.text import Text

from .terminal import Terminal

_GAP = 2
_NARROWEST_LAST = 16


def grid(
    terminal: Terminal,
    rows: Sequence[Sequence[Text]],
    *,
    right: Collection[int] = (),
    indent: int = 0,
) -> Iterator[Text]:
    """Lay rows out in aligned columns; the last column takes the rest of the width and wraps.

    Args:
        terminal: Where it is shown.
        rows: Cells. A row of a single cell is a remark: it stands in the first column and may
            run on into the others.
        right: Columns whose cells are aligned to the right.
        indent: Blanks before the first column.

    Yields:
        Finished lines, one or more a row.
    """
    aligned = [row for row in rows if len(row) > 1]
    widths = [max(cell.cell_len for cell in cells) for cells in zip(*aligned, strict=True)]
    before = indent + sum(widths[:-1]) + _GAP * (len(widths) - 1)
    rest = max(terminal.width - before, _NARROWEST_LAST)
    for row in rows:
        line = Text(" " * indent)
        if len(row) == 1:
            yield line.append_text(row[0])
            continue
        for column, cell in enumerate(row[:-1]):
            blanks = " " * (widths[column] - cell.cell_len)
            parts = (blanks, cell) if column in right else (cell, blanks)
            line = Text.assemble(line, *parts, " " * _GAP)
        blanks = " " * (widths[-1] - row[-1].cell_len) if len(widths) - 1 in right else ""
        first, *others = terminal.wrapped(row[-1], rest) or [Text()]
        yield Text.assemble(line, blanks, first)
        yield from (Text.assemble(" " * before, other) for other in others)
