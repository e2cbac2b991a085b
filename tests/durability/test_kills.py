"""Killed at any write, a recording keeps every step that was committed, and goes on from there.

A step is *committed* once `Writer.committed_step` has reached it: when `append` has returned, or
with ``background=True`` when its commit has been made by the thread, which `flush` waits for. The
killed process says so over a pipe, before and after each step. After the kill each committed step
must be there bit for bit, no step that was not begun, and none in part; resumed with ``mode="a"``,
the file must come to the same logical digest as if nothing had happened.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle, islice
from typing import Any

import pytest

from tests.durability.conftest import Forge
from tests.durability.runs import LARGE, MATRIX, TOGETHER, Run
from tests.durability.shim import KILL, TEAR

SIGKILL = 9


def kill_points(forge: Forge, run: Run, count: int, seed: int) -> list[dict[str, Any]]:
    """So many different kill points of a recording, spread over it; all, if there are fewer."""
    calls = calls_of(forge, run)
    points = [{"action": action, "at": at} for at in range(1, calls + 1) for action in (KILL, TEAR)]
    return sorted(
        random.Random(seed).sample(points, min(count, len(points))), key=lambda point: point["at"]
    )


@cache
def calls_of(forge: Forge, run: Run) -> int:
    return int(forge(run=run.as_dict(), count=True)["calls"])


def survives(forge: Forge, run: Run, kills: list[dict[str, Any]], **more: Any) -> None:
    outcome = forge(run=run.as_dict(), kills=kills, **more)
    assert not outcome["problems"], (run.name, kills, outcome)
    if "at" in kills[0]:  # a second life may be over before its kill
        assert outcome["signals"][0] == SIGKILL, (run.name, kills, outcome)


def report(capsys: pytest.CaptureFixture[str], what: str, survived: int) -> None:
    with capsys.disabled():
        print(f"\n{what}: {survived} survived, 0 losses")


def kill_at_writes(forge: Forge, total: int, runs: Sequence[Run] = MATRIX) -> int:
    survived = 0
    for number, run in enumerate(runs):
        for kill in kill_points(forge, run, -(-total // len(runs)), number):
            survives(forge, run, [kill])
            survived += 1
    return survived


def test_killed_at_a_write(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    survived = kill_at_writes(forge, 64)
    assert survived >= 64
    report(capsys, "killed at a write", survived)


def test_killed_at_a_write_of_large_rows(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    report(capsys, "killed at a write of large rows", kill_at_writes(forge, 16, LARGE))


def kill_among_several(forge: Forge, total: int) -> int:
    """Killed at the calls that commit many steps at once, which are the last ones."""
    survived = 0
    for number, run in enumerate(TOGETHER):
        one_by_one = calls_of(forge, replace(run, background=False))
        assert calls_of(forge, run) < 0.95 * one_by_one, "nothing was committed together"
        late = calls_of(forge, run) * 2 // 3
        points = [p for p in kill_points(forge, run, 10**6, number) if p["at"] > late]
        for kill in random.Random(number).sample(points, min(len(points), total // len(TOGETHER))):
            survives(forge, run, [kill])
            survived += 1
    return survived


def test_killed_among_several(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    report(capsys, "killed while several steps were committed", kill_among_several(forge, 16))


@pytest.mark.slow
def test_killed_anywhere_among_several(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    report(capsys, "killed while several steps were committed", kill_among_several(forge, 400))


@pytest.mark.slow
def test_killed_at_any_write(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    survived = kill_at_writes(forge, 1200)
    assert survived >= 1000
    report(capsys, "killed at a write", survived)


@pytest.mark.slow
def test_killed_at_any_write_of_large_rows(
    forge: Forge, capsys: pytest.CaptureFixture[str]
) -> None:
    survived = kill_at_writes(forge, 400, LARGE)
    report(capsys, "killed at a write of large rows", survived)


def kill_while_resuming(forge: Forge, total: int) -> int:
    """Killed, and killed again while it resumes, at the first writes of the resumption."""
    survived = 0
    runs = [run for run in (*MATRIX, *LARGE) if run.everything and run.growing]
    for number, run in enumerate(runs):
        points = kill_points(forge, run, -(-total // len(runs)), 100 + number)
        for second, point in enumerate(points, 1):
            again = {"action": (KILL, TEAR)[second % 2], "at": second}
            survives(forge, run, [point, again])
            survived += 1
    return survived


def test_killed_while_resuming(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    survived = kill_while_resuming(forge, 12)
    report(capsys, "killed again while resuming", survived)


@pytest.mark.slow
def test_killed_while_resuming_anywhere(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    survived = kill_while_resuming(forge, 300)
    report(capsys, "killed again while resuming", survived)


def kill_while_rewinding(forge: Forge, total: int) -> int:
    """Recorded to the end, then killed while it goes back to an earlier step and goes on."""
    survived = 0
    runs = [run for run in MATRIX if run.everything and run.growing]
    for run, resume_step, number in zip(
        cycle(runs), cycle([3, 1, 0, 4]), range(total), strict=False
    ):
        at = 1 + number // len(runs) * (1 if total > 100 else 3)
        kill = {"action": (KILL, TEAR)[number // 2 % 2], "at": at}
        survives(forge, run, [{}, kill], resume_step=resume_step)
        survived += 1
    return survived


def test_killed_while_going_back(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    survived = kill_while_rewinding(forge, 12)
    report(capsys, "killed while going back to an earlier step", survived)


@pytest.mark.slow
def test_killed_while_going_back_anywhere(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    survived = kill_while_rewinding(forge, 400)
    report(capsys, "killed while going back to an earlier step", survived)


def kill_at_random(forge: Forge, total: int) -> int:
    rng = random.Random(5)
    longer = [
        Run(run.suffix, run.compression, run.background, run.everything, run.growing, 40, 9000)
        for run in MATRIX
    ]
    rng.shuffle(longer)
    for run in islice(cycle(longer), total):
        survives(forge, run, [{"after": rng.uniform(0.005, 0.3)}])
    return total


def test_killed_at_random(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    report(capsys, "killed at random", kill_at_random(forge, 6))


@pytest.mark.slow
def test_killed_often_at_random(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    report(capsys, "killed at random", kill_at_random(forge, 200))
