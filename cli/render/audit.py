"""The screen of `trajfile audit`, and what is shown while it runs."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING

from rich.text import Text

from .terminal import Terminal
from .text import counted, seconds

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from trajfile.audit import Outcome, Result, Rulebook

#: Inputs that are told of one by one, and violations of each.
_INPUTS = 15
_VIOLATIONS = 3


def screen(terminal: Terminal, result: Result) -> Iterator[Text]:
    """The worst inputs first, then the counts, then what to do next.

    Args:
        terminal: Where it is shown.
        result: The batch.

    Yields:
        Lines to show one below the other.
    """
    total = result.summary
    bad = (outcome for outcome in result.outcomes() if outcome.worst is not None)
    shown = 0
    worst = ""
    for outcome in islice(bad, _INPUTS):
        shown += 1
        worst = worst or outcome.path
        yield terminal.line((outcome.path, "title"))
        fresh = [item for item in outcome.violations if not item.known]
        for item in fresh[:_VIOLATIONS]:
            head = terminal.line(
                "  ", (f"{item.severity:<5}", item.severity), " ", (item.rule, "accent"), "  "
            )
            body = terminal.wrapped(terminal.text(item.message), terminal.width - 8)
            if head.cell_len + body[0].cell_len <= terminal.width and len(body) == 1:
                yield head + body[0]
            else:
                yield head
                yield from (terminal.line("        ", part) for part in body)
        if len(fresh) > _VIOLATIONS:
            yield terminal.line((f"        and {len(fresh) - _VIOLATIONS} more", "aside"))
    left = total.inputs - total.clean - shown
    if left > 0:
        yield terminal.line(f"… and {counted(left, 'more input')} with findings")
    if shown:
        yield Text()
    counts = [
        counted(total.inputs, "input"),
        f"{total.failing} failing" if total.failing else "none failing",
        f"{total.clean} clean",
    ]
    if total.unexamined:
        counts.append(f"{total.unexamined} not examined")
    if total.known:
        counts.append(f"{total.known} known to the baseline")
    if total.reused:
        counts.append(f"{total.reused} from the interrupted audit")
    style = "error" if total.failing else "good"
    found = f"{counted(total.errors, 'error')}, {counted(total.warnings, 'warning')}"
    yield terminal.line((" · ".join(counts), style), f" · {found}")
    if worst:
        yield terminal.line(f"Next: trajfile analyze {shlex.quote(worst)}")


def explained(terminal: Terminal, book: Rulebook, wanted: str) -> Iterator[Text]:
    """What a rule means, or with ``all`` every rule in a line.

    Args:
        terminal: Where it is shown.
        book: The rules.
        wanted: A rule's id, or ``all``.

    Yields:
        Lines to show one below the other.

    Raises:
        UsageError: If there is no such rule.
    """
    from trajfile.errors import UsageError

    if wanted == "all":
        for rule in book.rules.values():
            off = "" if rule.id in book.active else " (off)"
            yield terminal.line(
                (f"{rule.id:<22}", "title"),
                (f"{rule.severity:<6}", rule.severity),
                f"{rule.condition}{off}",
            )
        return
    if wanted not in book.rules:
        raise UsageError(f"there is no rule {wanted!r}; `trajfile audit --explain all` lists them")
    rule = book.rules[wanted]
    yield terminal.line((rule.id, "title"), "  ", (rule.severity, rule.severity))
    yield terminal.line(("trips on  ", "accent"), rule.condition)
    yield terminal.line(("says      ", "accent"), rule.message)
    yield terminal.line(("means     ", "accent"), rule.why)
    yield terminal.line(("remedy    ", "accent"), rule.remedy)


class Tally:
    """Called with every outcome; a bar on stderr while it takes long and somebody watches."""

    def __init__(self) -> None:
        self.watched = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._total: int | None = None
        self._count = self._failing = 0
        self._start = time.monotonic()

    def expect(self, total: int) -> None:
        """Say how many inputs there will be."""
        self._total = total

    def __enter__(self) -> Tally:
        """The callback itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        self.done()

    def done(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self._count += 1
        self._failing += outcome.worst == "error"
        if not self.watched:
            return
        if self._bar is None:
            from .progress import bar

            self._bar = bar()
            self._bar.start()
            self._task = self._bar.add_task("auditing", total=self._total, figures="")
        if self._task is not None:
            self._bar.update(self._task, completed=self._count, figures=self._figures(outcome))

    def _figures(self, outcome: Outcome) -> str:
        rate = self._count / max(time.monotonic() - self._start, 1e-9)
        text = f"{self._count} of {self._total} · {self._failing} with errors · {rate:.1f}/s"
        if self._total is not None:
            text += f" · {seconds((self._total - self._count) / rate)} left"
        return text
