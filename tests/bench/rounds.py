"""Contenders taking turns, so that whatever else the machine does meets all of them alike."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Taken:
    """What a contender took.

    Attributes:
        seconds: The fastest of its rounds after the first.
        memory: Bytes beyond those of the process before its first round.
    """

    seconds: float
    memory: int


def alternate(contenders: Mapping[str, Sequence[str]], rounds: int) -> dict[str, Taken]:
    """Let each contender work by turns, each in its own process.

    Args:
        contenders: For each its arguments of `tests.bench.child`.
        rounds: How many rounds count; one before them warms up.

    Returns:
        What each took.
    """
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    memory = dict.fromkeys(contenders, 0)
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.bench.child", *arguments],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name, arguments in contenders.items()
        }
        for number in range(rounds + 1):
            for name, process in running.items():
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write("go\n")
                process.stdin.flush()
                answer = process.stdout.readline().split()
                if len(answer) != 2:
                    raise RuntimeError(f"{name} failed")
                if number:
                    taken[name].append(float(answer[0]))
                memory[name] = int(answer[1])
        for process in running.values():
            assert process.stdin is not None
            process.stdin.close()
    return {name: Taken(min(taken[name]), memory[name]) for name in contenders}
