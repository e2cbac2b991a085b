"""What an audit of many runs takes: against a loop of `trajfile analyze`, and in memory.

    python -m tests.bench.audit loop [--runs 200] [--loop 3]
    python -m tests.bench.audit crews [--runs 200] [--rounds 3]
    python -m tests.bench.audit inventory [--inputs 100000]

`loop` audits copies of a small run with one worker and with two, times some of a shell loop of
`trajfile analyze` over them, and prints runs per second, how many times as fast the audit is, and
how much faster two workers are than one. `crews` has two processes of a pool and two workers of a
local Dask cluster take turns at one run, which shows their start, and at all. `inventory` lists,
plans, notes, resumes and reports on so many inputs, whose examination is made up, and prints the
memory taken at a tenth and at the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.audit.runs import healthy
from trajfile.audit import (
    Ledger,
    Outcome,
    Result,
    Settings,
    crew_for,
    load_rulebook,
    run_batch,
)
from trajfile.audit.content import identity_of
from trajfile.audit.drive import outcomes
from trajfile.audit.formats import FORMATS
from trajfile.audit.inputs import inputs
from trajfile.audit.outcome import settings_key
from trajfile.audit.pool import Pool

COMMAND = Path(sys.executable).with_name("trajfile")
FASTER, SPEED_UP = 20.0, 1.8


def audited(folder: Path, workers: int) -> float:
    """Seconds of a whole audit, the start of its processes among them."""
    start = time.perf_counter()
    settings = Settings(load_rulebook())
    with Pool(settings, workers) as crew:
        found = list(outcomes(inputs([str(folder)]), settings, crew))
    assert {outcome.status for outcome in found} == {"ok"}
    return time.perf_counter() - start


def loop(runs: int, looped: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "runs"
        folder.mkdir()
        first = healthy(folder / "0.h5")
        for number in range(1, runs):
            shutil.copy(first, folder / f"{number}.h5")
        start = time.perf_counter()
        for number in range(looped):
            subprocess.run(
                [COMMAND, "analyze", folder / f"{number}.h5"], check=True, capture_output=True
            )
        each = (time.perf_counter() - start) / looped
        took = {workers: audited(folder, workers) for workers in (1, 2)}
    print(f"loop of analyze   {1 / each:8.2f} runs/s ({looped} timed)")
    for workers, seconds in took.items():
        times = each * runs / seconds
        print(f"audit, {workers} workers  {runs / seconds:8.2f} runs/s, {times:.1f} x the loop")
    print(f"goal {FASTER:g} x: {'met' if each * runs / took[2] >= FASTER else 'not met'}")
    gain = took[1] / took[2]
    print(
        f"1 -> 2 workers: {gain:.2f} x, goal {SPEED_UP}: {'met' if gain >= SPEED_UP else 'not met'}"
    )


def crews(runs: int, rounds: int) -> None:
    settings = Settings(load_rulebook())
    took: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        first = healthy(Path(name) / "0.h5")
        paths = [str(first)]
        for number in range(1, runs):
            paths.append(str(shutil.copy(first, Path(name) / f"{number}.h5")))
        for _ in range(rounds):
            for kind, scheduler in (("pool", None), ("LocalCluster", "local")):
                for some in (paths[:1], paths):
                    start = time.perf_counter()
                    with crew_for(settings, 2, scheduler) as crew:
                        found = list(outcomes(some, settings, crew))
                    took.setdefault((kind, len(some)), []).append(time.perf_counter() - start)
                    assert {outcome.status for outcome in found} == {"ok"}
    for (kind, count), seconds in took.items():
        middle = statistics.median(seconds)
        all_of = ", ".join(f"{one:.1f}" for one in sorted(seconds))
        print(f"{kind:<12} {count:4} runs: {middle:6.1f} s (of {all_of})")
    for kind in ("pool", "LocalCluster"):
        alone, every = (statistics.median(took[kind, count]) for count in (1, runs))
        print(f"{kind:<12} {(runs - 1) / (every - alone):.2f} runs/s once started")


def inventory(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        top = Path(name)
        for number in range(count):
            folder = top / "runs" / f"{number // 1000}"
            if number % 1000 == 0:
                folder.mkdir(parents=True)
            (folder / f"{number}.h5").touch()
        settings = Settings(load_rulebook())
        memory: list[int] = []

        def told(outcome: Outcome) -> None:
            told.count += 1
            if told.count in {count // 10, count}:
                memory.append(resident())

        def examiner(drawn):
            for path in drawn:
                yield Outcome(path, "ok", identity_of(path))

        for resume in (False, True):
            told.count = 0
            start = time.perf_counter()
            with Ledger(top / "ledger", settings_key(settings), resume=resume) as ledger:
                summary = run_batch(
                    inputs([str(top / "runs")]), examiner, settings, ledger, told=told
                )
                result = Result(summary, settings.rules, ledger.worst_first)
                with Path(os.devnull).open("w") as sink:
                    sink.writelines(FORMATS["jsonl"](result))
            seconds = time.perf_counter() - start
            assert (summary.inputs, summary.reused) == (count, count * resume)
            done = "resumed" if resume else "audited"
            print(
                f"{done} {count:,} inputs in {seconds:.1f} s; resident "
                f"{memory[-2] >> 20} MiB at a tenth, {memory[-1] >> 20} MiB at the end, "
                f"{resident() >> 20} MiB after the report"
            )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"peak {peak} MiB")


def resident() -> int:
    """Resident bytes now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["loop", "crews", "inventory"])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--loop", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inputs", type=int, default=100_000)
    options = parser.parse_args()
    if options.what == "loop":
        loop(options.runs, options.loop)
    elif options.what == "crews":
        crews(options.runs, options.rounds)
    else:
        inventory(options.inputs)


if __name__ == "__main__":
    main()
