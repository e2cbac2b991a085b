"""Reading files from strangers in a process apart, with limits on its memory and time.

The HDF5 library can crash on bytes made to that end, and what crashes may also be made to obey. So
the child only ever sends data back, which is bounded in size and checked here as a stranger's: it
can say something untrue of the file, which the file could do as well, but nothing else.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import msgspec

from trajfile import errors
from trajfile.outline import Outline, OutlineContainer
from trajfile.report import Finding
from trajfile.rules import severity_of

RULE = "CORE-016"

# -P: the folder in which the command runs may be a stranger's, and hold a module of any name.
_CHILD = ("-P", "-m", "trajfile.untrusted_child")
_MOST_ANSWER = 256 * 2**20
_MOST_ENTRIES = 100_000
_SLOWEST, _SLOWEST_STORE = 10_000_000, 1_000_000  # bytes a second
_CHUNK = 2**20

T = TypeVar("T")
Work = Literal["open", "validate", "analyze"]


@dataclass(frozen=True)
class Limits:
    """What reading may cost.

    Attributes:
        memory: Bytes beyond what the program itself takes, and beyond ``memory`` of an analysis;
            1 GiB and the size of the file, of which at most 4 GiB count, if None.
        seconds: Time; a minute and a second for each 10 MB of the file if None.
    """

    memory: int | None = None
    seconds: float | None = None


def limits(untrusted: bool | Limits) -> Limits:
    """The limits that an argument ``untrusted`` asks for."""
    return untrusted if isinstance(untrusted, Limits) else Limits()


class Refusal(msgspec.Struct, frozen=True):
    """An error of ours, told to another process."""

    kind: str
    message: str
    location: str = ""
    rule: str = ""
    metric: str = ""
    stream: str = ""


class Task(msgspec.Struct, frozen=True):
    """What a child is to do.

    Attributes:
        work: Which function.
        path: The run.
        memory: Bytes it may take beyond what it starts with.
        seconds: Processor time and wall time it may take.
        options: Arguments of the function.
    """

    work: Work
    path: str
    memory: int
    seconds: float
    options: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True):
    """What a child found: exactly one of these.

    Attributes:
        refusal: Why it could not.
        outline: For ``open``.
        findings: For ``validate``.
        report: For ``analyze``, as `trajfile.report.Report` has it.
    """

    refusal: Refusal | None = None
    outline: Outline | None = None
    findings: list[Finding] | None = None
    report: dict[str, Any] | None = None


def ask(work: Work, path: Path | str, limits: Limits, budget: int = 0, **options: Any) -> Answer:
    """Have a child do something with a file.

    Args:
        work: ``open``, ``validate`` or ``analyze``.
        path: The file or folder, or the address of one in a store.
        limits: What it may cost.
        budget: Bytes that the work itself is allowed.
        **options: Arguments of the work.

    Returns:
        Its answer; not a refusal.

    Raises:
        Unsafe: If the child dies, exceeds a limit, or answers nonsense (CORE-016).
        TrajfileError: The error that the work ended with.
    """
    size = _size(path)
    memory = 2**30 + min(size, 2**32) if limits.memory is None else limits.memory
    slowest = _SLOWEST if isinstance(path, Path) else _SLOWEST_STORE
    seconds = 60 + size / slowest if limits.seconds is None else limits.seconds
    task = Task(work, str(path), memory + budget, seconds, options)
    answer = _decode(_run(task, path), path)
    if answer.refusal is not None:
        _raise(answer.refusal, path)
    if answer.findings is not None:
        for found in answer.findings:
            if severity_of(found.id) != found.severity:
                _refuse(path, "its reader answered with a finding of no rule")
    return answer


def outlined(outline: Outline | None, path: Path | str) -> OutlineContainer:
    """The container that a child's outline makes.

    Args:
        outline: As answered.
        path: Where the run lies.

    Returns:
        The container; an outline that contradicts itself is `Unsafe`.
    """

    def made() -> OutlineContainer:
        if outline is None:
            raise ValueError("no outline")
        return OutlineContainer(msgspec.structs.replace(outline, path=str(path)))

    return answered(made, path)


def answered(make: Callable[[], T], path: Path | str) -> T:
    """Make something of an answer.

    Args:
        make: Does it; a `ValueError` says that the answer is nonsense.
        path: Where the run lies.

    Returns:
        What was made; nonsense is `Unsafe`.
    """
    try:
        return make()
    except ValueError:  # among them a manifest that breaks a rule, and a wrong type
        _refuse(path, "its reader answered with what contradicts itself")


def _run(task: Task, path: Path | str) -> bytes:
    """The bytes a child answers with."""
    command = [sys.executable, *_CHILD]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HDF5_")}
    environment["HDF5_PLUGIN_PRELOAD"] = "::"  # no plugin, whatever a file asks for
    environment["MALLOC_ARENA_MAX"] = "2"  # each claims addresses, which are what is limited
    until = time.monotonic() + task.seconds
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    ) as child:
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            # One that ends before it is asked may have answered all the same.
            with suppress(BrokenPipeError):
                child.stdin.write(msgspec.json.encode(task))
            with suppress(BrokenPipeError):
                child.stdin.close()
            answer = _receive(child.stdout.fileno(), until, path)
            try:
                code = child.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                _refuse(path, f"its reader took more than {task.seconds:.0f} s")
        finally:
            child.kill()
    if code == 0 and answer:
        return answer
    how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
    _refuse(path, f"its reader {how}")


def _receive(pipe: int, until: float, path: Path | str) -> bytes:
    parts: list[bytes] = []
    total = 0
    with selectors.DefaultSelector() as waiting:
        waiting.register(pipe, selectors.EVENT_READ)
        while True:
            left = until - time.monotonic()
            if left <= 0 or not waiting.select(left):
                _refuse(path, "its reader ran out of time")
            part = os.read(pipe, _CHUNK)
            if not part:
                return b"".join(parts)
            total += len(part)
            if total > _MOST_ANSWER:
                _refuse(path, f"its reader answered with more than {_MOST_ANSWER} bytes")
            parts.append(part)


def _decode(data: bytes, path: Path | str) -> Answer:
    try:
        answer = msgspec.json.decode(data, type=Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        _refuse(path, "its reader answered with something else than an answer")
    given = (answer.refusal, answer.outline, answer.findings, answer.report)
    if sum(part is not None for part in given) != 1:
        _refuse(path, "its reader answered with something else than an answer")
    return answer


def _raise(refusal: Refusal, path: Path | str) -> NoReturn:
    """Raise the error that the child met, if it is one of ours."""
    message = refusal.message
    if refusal.kind == "MissingStream":
        raise errors.MissingStream(message, metric=refusal.metric, stream=refusal.stream)
    kind = getattr(errors, refusal.kind, None)
    if isinstance(kind, type) and issubclass(kind, errors.FormatError):
        rule = refusal.rule if severity_of(refusal.rule) else RULE
        raise kind(message, path=path, location=refusal.location, rule=rule)
    if kind in {errors.UsageError, errors.ResourceError}:
        raise kind(message)
    _refuse(path, "its reader failed")


def _refuse(path: Path | str, what: str) -> NoReturn:
    raise errors.Unsafe(
        f"{path} is refused: {what}; it is damaged or made to harm",
        path=path,
        rule=RULE,
    )


def _size(path: Path | str) -> int:
    """Bytes of a file or, as far as it is soon known, of a folder."""
    if isinstance(path, str):
        from trajfile.containers.bucket import Bucket

        bucket = Bucket(path)
        try:
            return sum(int(found["size"]) for found in bucket.below(bucket.prefix))
        finally:
            bucket.close()
    if not path.is_dir():
        return path.stat().st_size if path.is_file() else 0
    total, pending, seen = 0, [str(path)], 0
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    seen += 1
                    if seen > _MOST_ENTRIES:
                        return total
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total
