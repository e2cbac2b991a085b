"""Tasks in processes of their own, so that none can end the batch.

A process that dies or takes too long costs its task and nothing else: a fresh one takes its place,
and the rest go on.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from concurrent.futures import TimeoutError as Late
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import msgspec
from pebble import ProcessExpired, ProcessPool

from trajfile.audit.crew import Failure, Task, failure_of_task
from trajfile.audit.outcome import Settings

#: Tasks of a process before a fresh one takes its place: libraries leak.
TASKS = 1000
#: Bytes that an interpreter with PyTorch takes, beyond the buffers of an analysis.
INTERPRETER = 2**31

_settings: Settings | None = None


class Pool:
    """A crew of processes on this machine.

    Args:
        settings: How inputs are examined.
        workers: How many processes.
        max_time: Seconds that one task may take; None for any.
    """

    def __init__(self, settings: Settings, workers: int, max_time: float | None = None) -> None:
        self.width = workers
        self.max_time = max_time
        self._places = tempfile.TemporaryDirectory(prefix="trajfile-audit-")
        self._pool = ProcessPool(
            max_workers=workers,
            max_tasks=TASKS,
            initializer=_begin,
            initargs=[settings, workers, self._places.name, os.getpid()],
            # Spawned: a fork would take locks along that other threads hold.
            context=multiprocessing.get_context("spawn"),
        )

    def submit(self, task: Task, *arguments: Any) -> Any:
        """Hand a task in."""
        return self._pool.schedule(_run, args=[task, *arguments], timeout=self.max_time)

    def result(self, ticket: Any) -> Any:
        """The result of a task that is done.

        Args:
            ticket: The task.

        Returns:
            What it returned.

        Raises:
            TaskFailed: If it came to no result.
        """
        try:
            return ticket.result()
        except Exception as error:
            known: dict[type[Exception], tuple[Failure, str]] = {
                Late: ("timeout", f"over {self.max_time or 0:g} s"),
                ProcessExpired: ("died", f"exit code {getattr(error, 'exitcode', None)}"),
            }
            failure = failure_of_task(error, known)
            raise failure from error

    def kept(self, ticket: Any) -> Any:
        """The result itself."""
        return self.result(ticket)

    def __enter__(self) -> Self:
        """The pool; its processes start with the first task."""
        return self

    def __exit__(self, *error: object) -> None:
        """End all processes."""
        self.close()

    def close(self) -> None:
        """End all processes."""
        self._pool.stop()  # type: ignore[no-untyped-call]  # untyped there
        self._pool.join()
        self._places.cleanup()


def _begin(settings: Settings, workers: int, places: str, parent: int) -> None:
    """Prepare a process: its share of the cores, bounded memory, a device of its own."""
    global _settings
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.environ["OMP_NUM_THREADS"] = "1"
    bound_memory(settings)
    _settings = msgspec.structs.replace(
        settings,
        device=device_at(settings.device, place(Path(places), workers)),
        threads=settings.threads or max(1, cores() // workers),
    )


def _end_with(parent: int) -> None:
    """End when the process is gone that asked for the work, however it went."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def cores() -> int:
    """The cores of this machine that this process may use."""
    from trajfile.engine.profiles import available_cores

    return available_cores()


def place(folder: Path, count: int) -> int:
    """A number below a count that no other living process has, held until this one ends.

    Args:
        folder: Shared by the processes.
        count: How many there are.

    Returns:
        The number; 0 where the system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        return 0
    for number in range(count):
        file = os.open(folder / str(number), os.O_CREAT | os.O_RDWR, 0o600)
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return number  # the lock goes with the process, also if it is killed
        os.close(file)
    return 0


def device_at(device: str, number: int) -> str:
    """The device of a process: where there are several, each process gets one of them."""
    if device not in {"auto", "cuda"}:
        return device
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return f"cuda:{number % found}" if found else device


def bound_memory(settings: Settings) -> None:
    """Let an input that wants more memory than its share fail alone, where the system can."""
    if settings.device != "cpu":
        return  # drivers reserve address space freely
    with suppress(ImportError, ValueError, OSError):
        import resource

        limit = settings.memory + INTERPRETER
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _run(task: Task, *arguments: Any) -> Any:
    assert _settings is not None
    return task(*arguments, _settings)
