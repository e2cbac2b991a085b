"""How many threads suit a loss: a small one is slower on several, far slower on a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

#: Timed this often each way; the fastest counts, since others may hold a core meanwhile.
_TRIALS = 3


@contextmanager
def threads_restored() -> Iterator[None]:
    """Leave PyTorch's number of threads as it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_threads(work: Callable[[], object]) -> int:
    """Set PyTorch's number of threads to one, unless the work is faster on all of them.

    Args:
        work: Something typical of what follows, already run once.

    Returns:
        The number of threads in force from here on.
    """
    every = torch.get_num_threads()
    seconds = {}
    for threads in (every, 1):
        torch.set_num_threads(threads)
        seconds[threads] = min(_timed(work) for _ in range(_TRIALS))
    chosen = every if seconds[every] < seconds[1] else 1
    torch.set_num_threads(chosen)
    return chosen


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
