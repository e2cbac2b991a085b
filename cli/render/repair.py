"""The screen of `trajfile repair`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from .grid import grid
from .terminal import Terminal
from .text import count, counted, steps_between

if TYPE_CHECKING:
    from trajfile.repaired import LostRows, RepairReport

_MOST_LOST = 8
_MOST_NOTES = 6
_MOST_TENSORS = 3


def screen(terminal: Terminal, report: RepairReport) -> Iterator[Text]:
    """What survived of each stream, what did not and why, and where the clean run is.

    Args:
        terminal: Where it is shown.
        report: What `trajfile.repair` did.

    Yields:
        Lines to show one below the other.
    """
    yield terminal.line((report.path, "title"))
    head = [terminal.text(word, "aside") for word in ("", "committed", "saved", "lost")]
    rows = [head]
    for stream in report.streams:
        gone = stream.committed - stream.saved
        cells = (stream.name, count(stream.committed), count(stream.saved))
        lost = terminal.text(count(gone) if gone else "-", "warn" if gone else "")
        rows.append([*(terminal.text(cell) for cell in cells), lost])
    yield from grid(terminal, rows, right={1, 2})
    yield from _lost(terminal, report)
    yield from _notes(terminal, "Whole again: ", "good", report.mended)
    yield Text()
    yield from _outcome(terminal, report)


def _lost(terminal: Terminal, report: RepairReport) -> Iterator[Text]:
    found = [(stream.name, rows) for stream in report.streams for rows in stream.lost]
    if found or report.lost:
        yield Text()
    for name, rows in found[:_MOST_LOST]:
        yield from _said(terminal, "lost  ", "warn", f"{name}: {_where(rows)}: {rows.reason}")
    if len(found) > _MOST_LOST:
        rest = sum(rows.count for _, rows in found[_MOST_LOST:])
        yield terminal.line(("lost  ", "warn"), f"and {counted(rest, 'more row')} elsewhere")
    yield from _notes(terminal, "lost  ", "warn", report.lost)


def _where(rows: LostRows) -> str:
    first, last = rows.rows
    place = f"row {first}" if first == last else f"rows {first}–{last}"
    if rows.steps is not None:
        word = "step" if rows.steps[0] == rows.steps[1] else "steps"
        place += f", {word} {steps_between(*rows.steps)}"
    if rows.tensors:
        few = ", ".join(rows.tensors[:_MOST_TENSORS])
        more = len(rows.tensors) - _MOST_TENSORS
        place += f" ({few}{f' and {more} more' if more > 0 else ''})"
    return place


def _notes(terminal: Terminal, label: str, style: str, notes: tuple[str, ...]) -> Iterator[Text]:
    for note in notes[:_MOST_NOTES]:
        yield from _said(terminal, label, style, note)
    if len(notes) > _MOST_NOTES:
        yield terminal.line((label, style), f"and {len(notes) - _MOST_NOTES} more")


def _said(terminal: Terminal, label: str, style: str, words: str) -> Iterator[Text]:
    """A remark under its label, later lines below the first."""
    lines = terminal.wrapped(terminal.text(words), terminal.width - len(label))
    for number, line in enumerate(lines):
        head = terminal.text(" " * len(label)) if number else terminal.text(label, style)
        yield terminal.line(head, line)


def _outcome(terminal: Terminal, report: RepairReport) -> Iterator[Text]:
    rows = sum(stream.committed - stream.saved for stream in report.streams)
    of = sum(stream.committed for stream in report.streams)
    what = f"{count(rows)} of {counted(of, 'row')} lost" if report.lossy else "nothing was lost"
    yield terminal.line(
        (report.out, "title"),
        ": ",
        (what, "warn" if report.lossy else "good"),
        ", what is saved is verified",
    )
    if report.backup is not None:
        yield terminal.line("The damaged run is kept as ", (report.backup, "title"), ".")
