"""One contender in a process of its own, which does its work each time it is told to.

    python -m tests.bench.child read NAME PATH
    python -m tests.bench.child write NAME FOLDER ROWS COLUMNS DTYPE [synced]

For every line on its standard input it works once and answers with the seconds taken, and the most
memory the process has held since it began, less what it held before the first work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def main() -> None:
    kind, name, path, *rest = sys.argv[1:]
    done: Callable[[], None] | None = None
    if kind == "read":
        import torch  # noqa: F401 (all alike, before memory is first looked at)

        import trajfile.engine.stream  # noqa: F401

        from .contenders import CONTENDERS

        def work() -> None:
            CONTENDERS[name](Path(path))

    else:
        from .data import Size
        from .writers import steps, write

        size = Size("", int(rest[0]), int(rest[1]), rest[2])
        next(steps(size))

        def work() -> None:
            nonlocal done
            done = write(name, Path(path), size, synced=rest[3:] == ["synced"])

    before = resident("VmRSS")
    for _ in sys.stdin:
        start = time.perf_counter()
        work()
        taken = time.perf_counter() - start
        if done is not None:
            done()
        print(taken, resident("VmHWM") - before, flush=True)


if __name__ == "__main__":
    main()
