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
#: So many bytes are worth a thread; to be compressed, fewer are.
_PARALLEL_BYTES = 2**22
_PARALLEL_PACKED = 2**19
#: Threads that compress: more would take the cores from who is being recorded.
PACKERS = max(1, min(4, os.cpu_count() or 1))

#: What is written is copied faster from where a page begins.
_PAGE = 4096

_own = threading.local()


def built(
    build: Callable[[int, Bytes], T], count: int, size: int, *, packing: bool = False
) -> Iterator[T]:
    """What is built of numbers, in their order.

    Args:
        build: Builds one, given its number and memory that is its own until the next one was
            asked for.
        count: How many.
        size: Bytes of memory that each needs.
        packing: Whether building compresses, which takes longer than writing: then several are
            built at a time.

    Yields:
        Each one.
    """
    enough = count > 1 and count * size >= (_PARALLEL_PACKED if packing else _PARALLEL_BYTES)
    threads = min(PACKERS, count) if packing else 1
    slots = min(count, threads + _AHEAD) if enough else 1
    free: list[list[Bytes]] = _own.__dict__.setdefault("free", [])
    ring = _ring(free, slots, size)
    empty: SimpleQueue[tuple[int, Bytes] | None] = SimpleQueue()
    ready: list[SimpleQueue[tuple[T] | BaseException]] = [SimpleQueue() for _ in range(slots)]
    left = threading.Event()

    def work() -> None:
        while (due := empty.get()) is not None and not left.is_set():
            number, memory = due
            try:
                ready[number % slots].put((build(number, memory),))
            except BaseException as error:
                ready[number % slots].put(error)
                return

    helpers = _helpers(work, threads) if enough else []
    if not helpers:
        yield from (build(number, ring[0][:size]) for number in range(count))
        free.append(ring)
        return
    try:
        for number in range(slots):
            empty.put((number, ring[number][:size]))
        for number in range(count):
            done = ready[number % slots].get()
            if isinstance(done, BaseException):
                raise done
            yield done[0]
            if number + slots < count:
                empty.put((number + slots, ring[number % slots][:size]))
    finally:
        left.set()
        for _ in helpers:
            empty.put(None)
        if threading.current_thread() not in helpers:  # one of which may be to clear this away
            for helper in helpers:
                helper.join()
            free.append(ring)


def _ring(free: list[list[Bytes]], count: int, size: int) -> list[Bytes]:
    """Pieces of memory, used before where there were enough that are large enough."""
    held = free.pop() if free else []
    if len(held) < count or len(held[0]) < size:
        count = max(count, len(held))
        apart = -(-size // _PAGE) * _PAGE
        whole = cleared(apart * count)
        held = [whole[start : start + apart] for start in range(0, len(whole), apart)]
    return held


def _helpers(work: Callable[[], None], count: int) -> list[threading.Thread]:
    """Threads at work; none where they could not work beside this one, or the program is ending."""
    helpers: list[threading.Thread] = []
    if (os.cpu_count() or 1) == 1:
        return helpers
    for _ in range(count):
        helper = threading.Thread(target=work, name="trajfile-build", daemon=True)
        try:
            helper.start()
        except RuntimeError:
            break
        helpers.append(helper)
    return helpers
