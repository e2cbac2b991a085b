"""A batch at work: inputs become tasks of a crew, and every input comes to exactly one outcome.

A small input is one task. A huge one is examined as far as its plan; its pass is then divided into
parts, which are tasks of their own, and a last task merges them and holds the report against the
rules. The parts and the order of merging are the plan's, so the outcome does not depend on how
many take part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

from trajfile.audit.crew import Crew, Task, TaskFailed
from trajfile.audit.examine import Divided, examine, examine_part
from trajfile.audit.examine import conclude as conclude_divided
from trajfile.audit.failure import failed
from trajfile.audit.outcome import Outcome, Settings

#: Inputs handed out ahead of the workers, for each of them.
AHEAD = 2
#: How often a task is tried whose process died: once may have been chance, as when memory ran out
#: because of another; twice is the input's.
TRIES = 2


@dataclass(eq=False)
class _Input:
    """An input on its way.

    Attributes:
        path: Its name.
        divided: What is to be done of it, if that is done in parts.
        parts: The parts that are done.
        over: Whether it has its outcome.
    """

    path: str
    divided: Divided | None = None
    parts: dict[int, Any] = field(default_factory=dict)
    over: bool = False


@dataclass(frozen=True, eq=False)
class _Step:
    """A task of an input: to examine it (-1), to make part n of its pass, or to conclude (-2)."""

    input: _Input
    number: int
    tries: int = 1


_WHOLE, _LAST = -1, -2


def outcomes(
    paths: Iterable[str], settings: Settings, crew: Crew, *, task: Task = examine
) -> Iterator[Outcome]:
    """Examine inputs, several at a time.

    Args:
        paths: The inputs; drawn as workers get free.
        settings: How each is examined.
        crew: Who does the work.
        task: What examines an input.

    Yields:
        An outcome for each input, as they come.
    """
    drawn = iter(paths)
    done: SimpleQueue[tuple[_Step, Any]] = SimpleQueue()
    inputs = pending = 0

    def submit(step: _Step) -> None:
        nonlocal pending
        pending += 1
        at = step.input
        if step.number == _WHOLE:
            ticket = crew.submit(task, at.path)
        elif step.number == _LAST:
            parts = [at.parts[number] for number in sorted(at.parts)]
            ticket = crew.submit(conclude_divided, at.path, at.divided, *parts)
        else:
            ticket = crew.submit(examine_part, at.path, at.divided, step.number)
        ticket.add_done_callback(lambda ended: done.put((step, ended)))

    while True:
        while inputs < max(1, crew.width) * AHEAD + 1:
            path = next(drawn, None)
            if path is None:
                break
            inputs += 1
            submit(_Step(_Input(path), _WHOLE))
        if not pending:
            return
        step, ticket = done.get()
        pending -= 1
        at = step.input
        if at.over:
            continue  # a part of an input that has its outcome already
        try:
            if step.number >= 0:
                part = at.parts[step.number] = crew.kept(ticket)
                assert at.divided is not None
                if not isinstance(part, Outcome):
                    if len(at.parts) == at.divided.parts:
                        submit(_Step(at, _LAST))
                    continue
                found: Any = part  # it failed, and so did the input
            else:
                found = crew.result(ticket)
        except TaskFailed as error:
            if error.status == "died" and step.tries < TRIES:
                submit(_Step(at, step.number, step.tries + 1))
                continue
            outcome = failed(at.path, error.status, error.detail, settings)
        else:
            if isinstance(found, Divided):
                at.divided = found
                for number in range(found.parts):
                    submit(_Step(at, number))
                continue
            outcome = found
        at.over = True
        at.parts.clear()
        inputs -= 1
        yield outcome
