"""Committing in a thread, in order, with bounded memory."""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

#: Commits that are taken from the queue at once, if they are small: larger ones gain nothing by it,
#: and what is refused together, as by a full disk, may leave all of its bytes behind.
_MOST_TOGETHER = 64
_BYTES_TOGETHER = 2**20


class Committer(Generic[Item]):
    """A queue of commits and the one thread that works it off.

    What is queued, being packed and being written never exceeds the limit together, except that
    a single commit larger than the limit passes alone. The first failure stops the queue: what
    was committed before it stays, what was queued after it is dropped, and the error is raised
    in the caller's thread.
    """

    def __init__(
        self,
        commit: Callable[[Item], None],
        limit: int,
        several: Callable[[list[Item]], None] | None = None,
    ):
        """Start the thread.

        Args:
            commit: Commits one.
            limit: Bound in bytes.
            several: Commits several small ones in order, for less than one by one; None if that
                is no less.
        """
        self._commit = commit
        self._several = several
        self._limit = limit
        self._held = 0
        self._unfinished = 0  # commits; some of them hold no bytes
        self._queue: deque[tuple[int, Item]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._error: BaseException | None = None
        self._raised = False
        # A daemon, so that a program that forgets to close still ends; the exit hook then
        # commits what is queued.
        self._thread = threading.Thread(target=self._work, name="trajfile-commit", daemon=True)
        self._thread.start()
        atexit.register(self._drain)

    def put(self, nbytes: int, pack: Callable[[], Item]) -> None:
        """Queue a commit, waiting until there is room for it.

        Args:
            nbytes: Bytes it will hold.
            pack: Makes it, once there is room.

        Raises:
            BaseException: Whatever a commit queued earlier failed with.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._error is not None
                    or self._unfinished == 0
                    or self._held + nbytes <= self._limit
                )
            )
            if self._error is not None:
                self._raised = True
                raise self._error
            self._held += nbytes
            self._unfinished += 1
        try:
            commit = pack()
        except BaseException:
            self._release(nbytes, 1)
            raise
        with self._changed:
            self._queue.append((nbytes, commit))
            self._changed.notify_all()

    @property
    def failed(self) -> bool:
        """Whether a commit failed, so that the queue takes no more."""
        return self._error is not None

    def wait(self) -> None:
        """Wait until all that is queued is committed.

        Raises:
            BaseException: Whatever a commit failed with, unless it has been raised already.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._unfinished == 0)
            if self._error is not None and not self._raised:
                self._raised = True
                raise self._error

    def close(self) -> None:
        """Commit what is queued and stop the thread.

        Raises:
            BaseException: Whatever a commit failed with, unless `put` has raised it already.
        """
        self._drain()
        atexit.unregister(self._drain)
        if self._error is not None and not self._raised:
            self._raised = True
            raise self._error

    def _drain(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _release(self, nbytes: int, commits: int) -> None:
        with self._changed:
            self._held -= nbytes
            self._unfinished -= commits
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closing)
                if not self._queue:
                    return
                taken = [self._queue.popleft()]
                nbytes = taken[0][0]
                while self._several and self._queue and len(taken) < _MOST_TOGETHER:
                    if nbytes + self._queue[0][0] > _BYTES_TOGETHER:
                        break
                    taken.append(self._queue.popleft())
                    nbytes += taken[-1][0]
            try:
                if len(taken) == 1 or self._several is None:
                    self._commit(taken[0][1])
                else:
                    self._several([commit for _, commit in taken])
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._queue.clear()
                    self._changed.notify_all()
                return
            count = len(taken)
            taken.clear()  # before their bytes count as free
            self._release(nbytes, count)
