"""A progress bar on stderr, for work that takes longer than a moment."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from .text import seconds, size

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

#: Work shorter than this shows no bar, in seconds.
_PATIENCE = 1.0


class Progress:
    """Called with the bytes done and the bytes in all; a bar with throughput and time left.

    Nothing is drawn off a terminal, and nothing within the first second.

    Args:
        doing: What is done, in a word.
    """

    def __init__(self, doing: str = "reading") -> None:
        self._doing = doing
        self._watched = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> Progress:
        """The callback itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, done: int, total: int) -> None:
        """Note progress; draw it if anybody watches and it takes long enough.

        Args:
            done: Bytes of recorded rows worked through so far.
            total: Bytes of recorded rows in all.
        """
        now = time.monotonic()
        # Time counts from the first call: what came before was loading PyTorch.
        self._first = self._first or (now, done)
        if not self._watched or now - self._first[0] < _PATIENCE:
            return
        if self._bar is None:
            self._bar = bar()
            self._bar.start()
            self._task = self._bar.add_task(self._doing, total=total, figures="")
        if self._task is not None:
            since, before = self._first
            rate = (done - before) / (now - since)
            self._bar.update(
                self._task, completed=done, total=total, figures=figures(done, total, rate)
            )


def figures(done: int, total: int, rate: float) -> str:
    """Amount, throughput and time left, as text.

    Args:
        done: Bytes done.
        total: Bytes in all.
        rate: Bytes a second; 0 if none were read since the first call.

    Returns:
        For example ``1.2 GiB of 8.0 GiB · 900 MiB/s · 7.6 s left``.
    """
    amount = f"{size(done)} of {size(total)}"
    if not rate:
        return amount
    return f"{amount} · {size(int(rate))}/s · {seconds((total - done) / rate)} left"


def bar() -> Bar:
    """A bar on stderr that goes away when it is done; `figures` stands behind it."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30, complete_style="cyan", finished_style="cyan"),
        TextColumn("{task.fields[figures]}", markup=False),
        console=Console(stderr=True, no_color=bool(os.environ.get("NO_COLOR"))),
        transient=True,
    )
