"""The process apart that reads a stranger's file: a task on stdin, an answer on stdout."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from trajfile.errors import FormatError, MissingStream, TrajfileError, UsageError
from trajfile.outline import Outline
from trajfile.untrusted import RULE, Answer, Refusal, Task

_MOST_FILES = 256
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


def main() -> None:
    """Do one task."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=Task)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no answer
    _prepare(task)
    _limit(task)
    try:
        answer = _do(task)
    except TrajfileError as error:
        answer = Answer(refusal=_told(error))
    except MemoryError:
        what = f"{task.path} is refused: reading it took more than {task.memory >> 20} MiB"
        answer = Answer(refusal=Refusal("Unsafe", what, rule=RULE))
    answers.write(msgspec.json.encode(answer))
    answers.close()


def _prepare(task: Task) -> None:
    """Import what the work needs, before memory is limited."""
    import trajfile.validate  # noqa: F401 - it loads the containers
    from trajfile.containers import checksum
    from trajfile.containers.bucket import Bucket
    from trajfile.paths import in_store

    checksum.forbid_compiling()  # it would write files
    if in_store(task.path):
        with contextlib.suppress(UsageError):  # said again where it is opened
            Bucket(task.path)

    if task.work == "analyze":
        import trajfile.analyze  # noqa: F401
        import trajfile.engine.stream  # noqa: F401 - it loads PyTorch


def _limit(task: Task) -> None:
    """Bound memory, time, open files; allow no file to be written and no core to be dumped."""
    with contextlib.suppress(ImportError):  # where there are no such limits, the parent's hold
        import resource

        def limit(name: str, value: int) -> None:
            kind = getattr(resource, name, None)
            if kind is None:
                return
            _, most = resource.getrlimit(kind)
            bound = value if most == resource.RLIM_INFINITY else min(value, most)
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (bound, bound))

        # Devices map far more addresses than there is memory; then only what is written counts.
        addresses = task.options.get("device", "cpu") == "cpu"
        limit("RLIMIT_AS" if addresses else "RLIMIT_DATA", _present(addresses) + task.memory)
        limit("RLIMIT_CPU", math.ceil(task.seconds * (os.cpu_count() or 1)) + 1)
        limit("RLIMIT_FSIZE", 0)
        limit("RLIMIT_CORE", 0)
        limit("RLIMIT_NOFILE", _MOST_FILES)
    with contextlib.suppress(Exception):  # only Linux ends a child along with its parent
        import ctypes

        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _present(addresses: bool) -> int:
    """Bytes of memory taken so far: of addresses, or of what is private and writable."""
    try:
        sizes = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 2**32
    return int(sizes[0 if addresses else 5]) * os.sysconf("SC_PAGE_SIZE")


def _do(task: Task) -> Answer:
    path, options = task.path, task.options
    if task.work == "open":
        from trajfile.reader import open_trajectory

        with open_trajectory(path) as run:
            return Answer(outline=Outline.of(run.container))
    if task.work == "validate":
        from trajfile.validate import validate

        return Answer(findings=validate(path, **options))
    from trajfile.analyze import analyze

    return Answer(report=analyze(path, **options).to_dict())


def _told(error: TrajfileError) -> Refusal:
    about: dict[str, Any] = {}
    if isinstance(error, FormatError):
        about = {"location": error.location, "rule": error.rule}
    if isinstance(error, MissingStream):
        about = {"metric": error.metric, "stream": error.stream}
    kind = next(c.__name__ for c in type(error).__mro__ if c.__module__ == "trajfile.errors")
    return Refusal(kind, str(error), **about)


if __name__ == "__main__":
    main()
