"""Building what is to be written next, in memory that is used again, while the last is written."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
T = TypeVar("T")

#: How many may be ready.
_AHEAD = 2
#: So many bytes are worth a thread.
_PARALLEL_BYTES = 2**22

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
        ring = [np.empty(size, np.uint8) for _ in range(_AHEAD + 1)]
    try:
        if count == 1 or count * size < _PARALLEL_BYTES or (os.cpu_count() or 1) == 1:
            for number in range(count):
                yield build(number, ring[0][:size])
            return
        with ThreadPoolExecutor(1, "trajfile-build") as pool:

            def start(number: int) -> Callable[[], T]:
                memory = ring[number % len(ring)][:size]
                try:
                    return pool.submit(build, number, memory).result
                except RuntimeError:  # the interpreter is ending, and starts nothing any more
                    done = build(number, memory)
                    return lambda: done

            ahead: deque[Callable[[], T]] = deque()
            for number in range(count):
                ahead.append(start(number))
                if len(ahead) > _AHEAD:
                    yield ahead.popleft()()
            while ahead:
                yield ahead.popleft()()
    finally:  # an iterator that was left half-way keeps its memory: it may still be built in
        free.append(ring)
