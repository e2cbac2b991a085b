"""Building what is to be written next, in memory that is used again, while the last is written."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from trajfile.memory import cleared

Bytes = NDArray[np.uint8]
T = TypeVar("T")

#: How many may be ready.
_AHEAD = 2
#: So many bytes are worth a thread.
_PARALLEL_BYTES = 2**22

#: What is written is copied faster from where a page begins.
_PAGE = 4096

_own = threading.local()


def built(build: Callable[[int, Bytes], T], count: int, size: int) -> Iterator[T]:
    """What is built of numbers, in their order.

    Args:
        build: Builds one, given its number and memory that is its own until the next one was
            asked for.
        count: How many.
        size: Bytes of memory that each needs.

    Yields:
        Each one.
    """
    free: list[list[Bytes]] = _own.__dict__.setdefault("free", [])
    ring = free.pop() if free else []
    if not ring or len(ring[0]) < size:
        apart = -(-size // _PAGE) * _PAGE
        whole = cleared(apart * (_AHEAD + 1))
        ring = [whole[start : start + size] for start in range(0, len(whole), apart)]
    empty: SimpleQueue[Bytes | None] = SimpleQueue()
    ready: SimpleQueue[tuple[T] | BaseException] = SimpleQueue()

    def work() -> None:
        for number in range(count):
            memory = empty.get()
            if memory is None:
                return
            try:
                ready.put((build(number, memory),))
            except BaseException as error:
                ready.put(error)
                return

    helper = _helper(work) if count > 1 and count * size >= _PARALLEL_BYTES else None
    if helper is None:
        yield from (build(number, ring[0][:size]) for number in range(count))
        free.append(ring)
        return
    try:
        for memory in ring:
            empty.put(memory[:size])
        for number in range(count):
            done = ready.get()
            if isinstance(done, BaseException):
                raise done
            yield done[0]
            empty.put(ring[number % len(ring)][:size])
    finally:
        empty.put(None)
        if helper is not threading.current_thread():  # which may be the one to clear this away
            helper.join()
            free.append(ring)


def _helper(work: Callable[[], None]) -> threading.Thread | None:
    """A thread at work; None where it could not work beside this one, or the program is ending."""
    if (os.cpu_count() or 1) == 1:
        return None
    helper = threading.Thread(target=work, name="trajfile-build", daemon=True)
    try:
        helper.start()
    except RuntimeError:
        return None
    return helper
