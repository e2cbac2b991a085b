"""The way of a step into the file: packed and committed at once, or queued for a thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from trajfile.background import Committer
from trajfile.containers.base import Commit
from trajfile.containers.journal import Journal
from trajfile.errors import ResourceError
from trajfile.memory import Lease, Pool
from trajfile.recording import Pending, Recording


@dataclass(frozen=True)
class Packed:
    """A step on its way into the file: its rows, what is recorded with it, and its memory."""

    commit: Commit
    after: Recording
    lease: Lease


class Committing:
    """Commits steps to a container, and knows how far the file has got.

    Args:
        container: Open for appending; whoever made it closes it.
        recording: How far it has got.
        queue_bytes: Bound in bytes on what is queued; with 0 each step is committed at once.

    Attributes:
        recording: What the next step follows: all that was put, but for what was dropped.
        committed: What is in the file for good.
    """

    def __init__(self, container: Journal, recording: Recording, queue_bytes: int):
        self.recording = self.committed = recording
        self._container = container
        self._queue_bytes = queue_bytes
        self._queue: Committer[Packed] | None = None
        self._pool = Pool(queue_bytes)

    def put(self, pending: Pending) -> None:
        """Commit a step, or queue it once there is room.

        Args:
            pending: The step.

        Raises:
            ResourceError: If the system refuses to write. If that is about a step queued before,
                all that was queued is dropped.
        """
        after = pending.after()
        if self._queue_bytes:
            self._queue = self._queue or Committer(
                self._commit, self._queue_bytes, self._commit_several
            )
            with self._dropping_what_is_queued():
                self._queue.put(pending.nbytes, lambda: self._packed(pending, after))
        else:
            self._commit(self._packed(pending, after, leave=True))
        self.recording = after

    def wait(self) -> None:
        """Wait until all that was put is committed; raise what a queued commit failed with."""
        if self._queue is not None:
            with self._dropping_what_is_queued():
                self._queue.wait()

    def close(self) -> None:
        """Commit what is queued, and end the thread; raise what a queued commit failed with."""
        if self._queue is not None:
            self._queue.close()

    def _packed(self, pending: Pending, after: Recording, *, leave: bool = False) -> Packed:
        lease = self._pool.lease()
        try:
            return Packed(pending.pack(lease, leave=leave), after, lease)
        except BaseException:
            lease.end()
            raise

    def _commit(self, packed: Packed) -> None:
        try:
            self._container.append(packed.commit)
        finally:
            packed.lease.end()
        self.committed = packed.after

    def _commit_several(self, several: list[Packed]) -> None:
        left = several
        try:
            while left:
                count = self._container.append_some([packed.commit for packed in left])
                self.committed = left[count - 1].after
                left = left[count:]
        except ResourceError:
            # Together they were refused; those that there is room for are not to go with the rest.
            with suppress(ResourceError):
                for packed in left:
                    self._container.append(packed.commit)
                    self.committed = packed.after
            raise
        finally:
            for packed in several:
                packed.lease.end()

    @contextmanager
    def _dropping_what_is_queued(self) -> Iterator[None]:
        """After a failure of the queue, go back to what is committed and to a new queue."""
        try:
            yield
        except BaseException:
            if self._queue is not None and self._queue.failed:
                self._queue.close()
                self._queue = None
                self._pool = Pool(self._queue_bytes)  # what was dropped is never given back
                self.recording = self.committed
            raise
