"""Threads that a container reads with: begun when there is much to read, kept until it is closed.

What a thread keeps for itself, memory above all, would be gone with it after every block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from trajfile.stopwatch import at

T = TypeVar("T")


class Threads:
    """Some threads.

    Args:
        count: How many.
        name: Of each, with a number behind it.
    """

    def __init__(self, count: int, name: str) -> None:
        self.count, self._name = count, name
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def each(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Call `work` for each item, and wait until all are done; items are taken up in order.

        Several threads may call this at a time, but none of these.

        Args:
            work: What to do.
            items: For what.

        Raises:
            Exception: The first that `work` raised, in the order of the items.
        """
        left = list(items)
        if len(left) == 1:
            work(left[0])
            return
        # One task a thread and not one an item, each of which takes as long as a small chunk.
        rest = iter(enumerate(left))  # each step of it is one of the interpreter's, so threads may
        failed: dict[int, BaseException] = {}

        def share(_: int) -> None:
            for number, item in rest:
                if failed:
                    return
                try:
                    work(item)
                except BaseException as error:
                    failed[number] = error

        begun: list[Future[None]] = []
        try:
            pool = self._running()
            for number in range(min(self.count, len(left))):
                begun.append(pool.submit(share, number))
        except RuntimeError:  # no more threads can be begun: it goes without them
            share(-1)
        with at("wait"):
            for future in begun:
                future.result()
        if failed:
            raise failed[min(failed)]

    def close(self) -> None:
        """Let go of the threads; they begin anew if there is more to do."""
        pool, self._pool = self._pool, None
        if pool is not None and self._process == os.getpid():
            pool.shutdown()

    def _running(self) -> ThreadPoolExecutor:
        if self._pool is None or self._process != os.getpid():  # a fork has none of the threads
            self._process = os.getpid()
            self._pool = ThreadPoolExecutor(self.count, self._name)
        return self._pool
