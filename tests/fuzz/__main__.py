"""Try inputs for so many seconds; see `tests.fuzz`."""

from __future__ import annotations

import argparse
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 10.0  # seconds for one input
STARTING = 120.0  # seconds until the first
BATCH = 2000
_CRASHES = {-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS, -signal.SIGFPE}


def worker(seed: int, start: int, count: int, keep: Path | None) -> subprocess.Popen[bytes]:
    """Start a worker on some inputs."""
    command = [sys.executable, "-m", "tests.fuzz.worker"]
    command += ["--seed", str(seed), "--start", str(start), "--count", str(count)]
    command += ["--keep", str(keep)] if keep else []
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True
    )


def refused_apart(seed: int, number: int) -> bool:
    """Whether an input on which the HDF5 library fails is refused when it is read apart."""
    command = [sys.executable, "-m", "tests.fuzz.worker", "--seed", str(seed), "--apart"]
    command += ["--start", str(number), "--count", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    refused = done.returncode == 0 and done.stdout.startswith("apart ")
    print(
        f"input {number} fails in the HDF5 library; {done.stdout.strip() or done.stderr}",
        flush=True,
    )
    return refused


def batch(
    seed: int, start: int, count: int, until: float, keep: Path | None, outcomes: Counter[str]
) -> tuple[int, list[str]]:
    """Run one worker; the number of the next input, and what was found."""
    found, at, begun, library = [], None, time.monotonic(), False
    process = worker(seed, start, count, keep)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    rest = b""
    with selectors.DefaultSelector() as waiting:
        waiting.register(process.stdout, selectors.EVENT_READ)
        while True:
            waiting.select(0.5)
            data = process.stdout.read()
            for line in (rest + (data or b"")).splitlines(keepends=True):
                if not line.endswith(b"\n"):
                    rest = line
                    break
                rest = b""
                word, _, text = line.decode().strip().partition(" ")
                if word == "begin":
                    at, begun = int(text.split()[0]), time.monotonic()
                    library = text.endswith(".h5")
                elif word == "done":
                    outcomes[text.split()[1]] += 1
                    start, at = int(text.split()[0]) + 1, None
                elif word == "found":
                    found.append(text)
                    start, at = int(text.split()[0]) + 1, None
                else:
                    print(text)
            if data == b"":
                break
            now = time.monotonic()
            late = now - begun > (PATIENCE if at is not None else STARTING)
            if late or now > until:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                if late and at is not None and library and refused_apart(seed, at):
                    outcomes["(hangs the HDF5 library)"] += 1
                    start = at + 1
                elif late:
                    found.append(f"{start if at is None else at} more than {PATIENCE:.0f} s")
                    start = start if at is None else at + 1
                return start, found
    process.wait()
    crashed = at is not None and process.returncode in _CRASHES
    if crashed and library and at is not None and refused_apart(seed, at):
        outcomes["(crashes the HDF5 library)"] += 1
        start = at + 1
    elif at is not None:
        found.append(f"{at} the process ended: {process.returncode}")
        start = at + 1
    elif process.returncode:
        found.append(f"{start} the worker ended: {process.returncode}")
        start += 1
    return start, found


def main() -> int:
    """Run workers one after another.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", type=int, help="try this input alone")
    parser.add_argument("--keep", type=Path, help="folder in which inputs are left")
    options = parser.parse_args()
    begun = time.monotonic()
    outcomes: Counter[str] = Counter()
    found: list[str] = []
    first = number = options.start if options.only is None else options.only
    while time.monotonic() - begun < options.seconds:
        count = BATCH if options.only is None else 1
        until = begun + options.seconds + (PATIENCE if options.only is not None else 0)
        number, more = batch(options.seed, number, count, until, options.keep, outcomes)
        for line in more:
            print(f"FOUND seed {options.seed} input {line}", flush=True)
        found += more
        if options.only is not None:
            break
    tried = number - first
    print(
        f"fuzz inputs tried: {tried}, of which read whole: {outcomes.pop('read', 0)}, refused: ",
        end="",
    )
    print(f"{outcomes.total()} under {len(outcomes)} rules; found: {len(found)}")
    print(", ".join(f"{rule} {count}" for rule, count in sorted(outcomes.items())))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
