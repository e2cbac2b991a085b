"""How long `trajfile info` takes to start, against `python -c "import h5py"`.

    python tests/bench/startup.py [--repeats 15]

Alternates the two on a small recorded run; prints the fastest of each and their ratio, which is
held against the goal of 1.5, and the same for `trajfile --help`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import trajfile

GOAL = 1.5


def seconds(command: list[str]) -> float:
    """Wall-clock time of a command that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        with trajfile.Writer(path) as writer:
            for step in range(10):
                writer.append(step, params={"w": np.full(100, step)}, scalars={"loss": 1.0})
        program = str(Path(sys.executable).with_name("trajfile"))
        commands = {
            "import h5py": [sys.executable, "-c", "import h5py"],
            "trajfile info": [program, "info", str(path)],
            "trajfile --help": [program, "--help"],
        }
        taken: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(repeats):
            for name, command in commands.items():
                taken[name].append(seconds(command))
    best = {name: min(several) for name, several in taken.items()}
    for name, fastest in best.items():
        print(f"{name}: {1000 * fastest:.0f} ms, ratio {fastest / best['import h5py']:.2f}")
    return 0 if best["trajfile info"] <= GOAL * best["import h5py"] else 1


if __name__ == "__main__":
    sys.exit(main())
