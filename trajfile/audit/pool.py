"""Examining inputs in processes of their own, so that none can end the batch.

A worker that dies or takes too long costs its input and nothing else: the input becomes a failure,
a fresh worker takes its place, and the rest go on.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import TimeoutError as Late
from contextlib import suppress

from pebble import ProcessExpired, ProcessFuture, ProcessPool

from trajfile.audit.examine import Outcome, Settings, examine, failed

#: Inputs handed out ahead of the workers, for each of them.
AHEAD = 2
#: Inputs a worker examines before a fresh one takes its place: libraries leak.
TASKS = 1000
#: Bytes that an interpreter with PyTorch takes, beyond the buffers of an analysis.
INTERPRETER = 2**31

Task = Callable[[str, Settings], Outcome]

_work: tuple[Settings, Task] | None = None


def outcomes(
    paths: Iterable[str],
    settings: Settings,
    *,
    workers: int = 1,
    max_time: float | None = None,
    task: Task = examine,
) -> Iterator[Outcome]:
    """Examine inputs, several at a time.

    Args:
        paths: The inputs; drawn as workers get free.
        settings: How each is examined.
        workers: How many processes.
        max_time: Seconds that one input may take; None for any.
        task: What examines an input; found by its name in the workers.

    Yields:
        The outcomes, in the order of the inputs.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPool(
        max_workers=workers,
        max_tasks=TASKS,
        initializer=_begin,
        initargs=[settings, task],
        context=context,
    )
    waiting: deque[tuple[str, ProcessFuture[Outcome]]] = deque()
    drawn = iter(paths)
    try:
        while True:
            while len(waiting) < workers * AHEAD + 1:
                path = next(drawn, None)
                if path is None:
                    break
                waiting.append((path, pool.schedule(_task, args=[path], timeout=max_time)))
            if not waiting:
                return
            path, future = waiting.popleft()
            yield _awaited(path, future, settings, max_time)
    finally:
        pool.stop()  # type: ignore[no-untyped-call]  # untyped there
        pool.join()


def _awaited(
    path: str, future: ProcessFuture[Outcome], settings: Settings, max_time: float | None
) -> Outcome:
    try:
        outcome = future.result()
    except Late:
        return failed(path, "timeout", f"over {max_time:g} s", settings)
    except ProcessExpired as error:
        return failed(path, "died", f"exit code {error.exitcode}", settings)
    except Exception as error:
        detail = f"{type(error).__name__}: {error}"
        return failed(path, "internal", detail, settings)
    return outcome


def _begin(settings: Settings, task: Task) -> None:
    """Prepare a worker: one thread, bounded memory, PyTorch loaded."""
    global _work
    _work = settings, task
    os.environ["OMP_NUM_THREADS"] = "1"
    bound_memory(settings)
    import torch

    torch.set_num_threads(1)


def bound_memory(settings: Settings) -> None:
    """Let an input that wants more memory than its share fail alone, where the system can."""
    if settings.device != "cpu":
        return  # drivers reserve address space freely
    with suppress(ImportError, ValueError, OSError):
        import resource

        limit = settings.memory + INTERPRETER
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _task(path: str) -> Outcome:
    assert _work is not None
    settings, task = _work
    return task(path, settings)
