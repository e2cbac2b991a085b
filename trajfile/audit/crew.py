"""Who does the work of a batch: processes of this machine, or the workers of a cluster.

A crew takes tasks and gives back tickets. What a task is, and what its failure means for a batch,
is not its concern (see `trajfile.audit.drive`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, Self

#: A function of a module, found by its name in workers; called with its arguments and settings.
Task = Callable[..., Any]

Failure = Literal["timeout", "died", "internal"]


class TaskFailed(Exception):
    """A task that came to no result, without harm to others.

    Args:
        status: How it failed.
        detail: In words.
    """

    def __init__(self, status: Failure, detail: str) -> None:
        super().__init__(status, detail)
        self.status: Failure = status
        self.detail = detail


def failure_of_task(
    error: Exception, known: Mapping[type[Exception], tuple[Failure, str]]
) -> TaskFailed:
    """What an error means for the task that ended with it.

    Args:
        error: As a library for processes or clusters raised it.
        known: What those errors stand for that are of the library, not of the task.

    Returns:
        The failure; `internal` for what the task itself raised.
    """
    if isinstance(error, TaskFailed):
        return error
    for kind, (status, detail) in known.items():
        if isinstance(error, kind):
            return TaskFailed(status, detail)
    return TaskFailed("internal", f"{type(error).__name__}: {error}")


class Ticket(Protocol):
    """A task that was handed in."""

    def add_done_callback(self, told: Callable[[Any], object], /) -> object:
        """Have a function called with the ticket when the task is done, from whatever thread."""
        ...


class Crew(Protocol):
    """Whoever does the work."""

    @property
    def width(self) -> int:
        """How many tasks are worked on at a time, as of now."""
        ...

    def submit(self, task: Task, *arguments: Any) -> Ticket:
        """Hand a task in; an argument that is what `kept` returned stands for that result."""
        ...

    def result(self, ticket: Any) -> Any:
        """The result of a task that is done; raises `TaskFailed` if it came to none."""
        ...

    def kept(self, ticket: Any) -> Any:
        """The result of a task that is done, or what stands for it as an argument of others."""
        ...

    def __enter__(self) -> Self:
        """Get ready."""
        ...

    def __exit__(self, *error: object) -> None:
        """Stop whatever is still worked on."""
        ...
