"""Markdown of our own documents as lines of a terminal: paragraphs, lists, subheadings, code."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.text import Text

from .grid import grid
from .terminal import Terminal

_ITEM = re.compile(r"(\*|\d+\.) +")
_FENCE = "```"


def prose(terminal: Terminal, markdown: str) -> Iterator[Text]:
    """The document without its tables, which the screens show in their own form.

    Args:
        terminal: Where it is shown.
        markdown: Paragraphs, lists, subheadings and fenced code, a blank line between blocks.

    Yields:
        Lines to show one below the other, a blank one between blocks.
    """
    for number, block in enumerate(_blocks(markdown)):
        if number:
            yield Text()
        if block.startswith(_FENCE):
            for line in block.splitlines()[1:-1]:
                yield terminal.line(f"    {line}")
        elif block.startswith("### "):
            yield terminal.line((_plain(block[4:]), "title"))
        elif _ITEM.match(block):
            items = re.split(r"\n(?=(?:\*|\d+\.) )", block)
            cells = [(_ITEM.match(item), item) for item in items]
            yield from grid(
                terminal,
                [
                    (terminal.text(mark[1]), terminal.text(_plain(item[mark.end() :])))
                    for mark, item in cells
                    if mark
                ],
            )
        else:
            yield terminal.line(_plain(block))


def _blocks(markdown: str) -> Iterator[str]:
    """Blocks between blank lines; code keeps its own blank lines, tables are left out."""
    for part in re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL):
        if part.startswith(_FENCE):
            yield part
        else:
            for block in re.split(r"\n\s*\n", part):
                if block.strip() and not block.lstrip().startswith("|"):
                    yield block.strip()


def _plain(text: str) -> str:
    """Flowing text without emphasis, code marks and links' targets."""
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    text = re.sub(r"(?<!\w)\*(\w+)\*(?!\w)", r"\1", re.sub(r"\*\*|`", "", text))
    return " ".join(text.split())
