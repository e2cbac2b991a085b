"""Stand-ins: tasks that misbehave, which workers find by name, and a crew without processes."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

import numpy as np

from trajfile.audit.crew import Task, failure_of_task
from trajfile.audit.examine import examine
from trajfile.audit.outcome import Outcome, Settings


def task(path: str, settings: Settings) -> Outcome:
    """What the last part of the path says; otherwise examine it."""
    name = path.rpartition("/")[2]
    if name.startswith("kills"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("killed once"):
        if not Path(path).exists():
            Path(path).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(path, "ok")
    if name.startswith("waits"):
        Path(path).touch()
        while not Path(path).with_name("go").exists():
            time.sleep(0.05)
        return Outcome(path, "ok")
    if name.startswith("sleeps"):
        time.sleep(600)
    if name.startswith("grows"):
        return examine_with(lambda: np.ones(2**33, np.uint8), path, settings)
    if name.startswith("plain"):
        return Outcome(path, "ok")
    return examine(path, settings)


def examine_with(first, path: str, settings: Settings) -> Outcome:
    from trajfile.audit.failure import failed, failure_of

    try:
        first()
    except MemoryError as error:
        return failed(path, *failure_of(error), settings)
    return Outcome(path, "ok")


class Here:
    """A crew that does each task at once and in this process, which needs no start.

    Made as `trajfile.audit.crew_for` makes one, in whose place it is put where processes are not
    what a test is about.
    """

    width = 1

    def __init__(
        self,
        settings: Settings,
        workers: int = 1,
        scheduler: str | None = None,
        max_time: float | None = None,
    ) -> None:
        assert (workers, scheduler, max_time) == (1, None, None)
        self.settings = settings

    def submit(self, task: Task, *arguments: Any) -> Future[Any]:
        ticket: Future[Any] = Future()
        try:
            ticket.set_result(task(*arguments, self.settings))
        except Exception as error:
            ticket.set_exception(error)
        return ticket

    def result(self, ticket: Future[Any]) -> Any:
        try:
            return ticket.result()
        except Exception as error:
            raise failure_of_task(error, {}) from error

    kept = result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass
