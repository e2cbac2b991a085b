"""Where the time goes, thread by thread: a stopwatch that costs next to nothing when it is off.

A thread is always at one kind of work; `at` switches it to another for a while, and what is nested
counts once, as the inner kind. Two looks at the clock are taken a switch, near a microsecond
together, and switches are made per tile and per chunk, never per row. Compiled loops look by
themselves, if one runs, and tell what they `spent`.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from time import perf_counter
from types import TracebackType
from typing import Literal, TypeVar

Kind = Literal["read", "verify", "decode", "copy", "products", "metrics", "wait", "other"]
KINDS: tuple[Kind, ...] = (
    *("read", "verify", "decode", "copy", "products", "metrics", "wait", "other"),
)

T = TypeVar("T")


class Stopwatch:
    """Seconds by thread and kind of work.

    Attributes:
        seconds: For each thread, by its name, seconds of each kind. Threads of one name, which
            a pool gives to its threads again and again, count as one.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, dict[Kind, float]] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def told(self) -> dict[str, dict[str, float]]:
        """The seconds by now, those of the thread that asks included; kinds in their order."""
        hand = self._hand()
        if hand.kinds:
            self.enter(hand.kinds[-1])
            self.leave()
        with self._lock:
            seconds = {name: dict(spent) for name, spent in self.seconds.items()}
        mine = seconds.setdefault(threading.current_thread().name, {})
        for kind, spent in hand.spent.items():
            mine[kind] = mine.get(kind, 0.0) + spent
        return {
            name: {kind: spent[kind] for kind in KINDS if kind in spent}
            for name, spent in sorted(seconds.items())
        }

    def enter(self, kind: Kind) -> None:
        """Begin work of a kind; what the thread was at goes on afterwards."""
        now = perf_counter()
        hand = self._hand()
        if hand.kinds:
            hand.spent[hand.kinds[-1]] += now - hand.since
        hand.kinds.append(kind)
        hand.since = now

    def leave(self) -> None:
        """End the work begun last."""
        now = perf_counter()
        hand = self._hand()
        hand.spent[hand.kinds.pop()] += now - hand.since
        hand.since = now
        if not hand.kinds:
            with self._lock:
                total = self.seconds.setdefault(threading.current_thread().name, {})
                for kind, spent in hand.spent.items():
                    total[kind] = total.get(kind, 0.0) + spent
            hand.spent.clear()

    def spent(self, kind: Kind, seconds: float) -> None:
        """Count some of the time of what the thread is at as work of another kind."""
        hand = self._hand()
        if hand.kinds:
            hand.spent[kind] += seconds
            hand.spent[hand.kinds[-1]] -= seconds

    def _hand(self) -> _Hand:
        try:
            hand: _Hand = self._local.hand
        except AttributeError:
            hand = self._local.hand = _Hand()
        return hand


class _Hand:
    """Of one thread: what it is at, inside of what, since when, and what it spent before."""

    def __init__(self) -> None:
        self.kinds: list[Kind] = []
        self.since = 0.0
        self.spent: defaultdict[Kind, float] = defaultdict(float)


class _At:
    """One span of work."""

    __slots__ = ("kind", "watch")

    def __init__(self, watch: Stopwatch, kind: Kind) -> None:
        self.watch, self.kind = watch, kind

    def __enter__(self) -> None:
        self.watch.enter(self.kind)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.watch.leave()


_running: Stopwatch | None = None
_OFF: AbstractContextManager[None] = nullcontext()


def at(kind: Kind) -> AbstractContextManager[None]:
    """Count what is done inside as work of a kind, if a stopwatch runs.

    Args:
        kind: The kind.

    Returns:
        A context.
    """
    watch = _running  # another thread may end it at any moment
    return _OFF if watch is None else _At(watch, kind)


def is_running() -> bool:
    """Whether a stopwatch runs, for work that would have to look at the clock by itself."""
    return _running is not None


def spent(kind: Kind, seconds: float) -> None:
    """Count time that was measured by other means, if a stopwatch runs.

    Args:
        kind: What it was spent on.
        seconds: How much of that of the kind of work the thread is at.
    """
    watch = _running
    if watch is not None:
        watch.spent(kind, seconds)


def timed(kind: Kind, work: Callable[[], T]) -> T:
    """Do some work as work of a kind."""
    with at(kind):
        return work()


@contextmanager
def running(*, wanted: bool = True) -> Iterator[Stopwatch | None]:
    """Run a stopwatch over all threads; one at a time in a process.

    Args:
        wanted: Whether to.

    Yields:
        The stopwatch; None if it is not wanted.
    """
    global _running
    if not wanted:
        yield None
        return
    before, _running = _running, Stopwatch()
    try:
        with at("other"):
            yield _running
    finally:
        _running = before
