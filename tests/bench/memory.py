"""How much memory `analyze` takes beyond an interpreter with PyTorch, on a file 10 x the budget.

    python tests/bench/memory.py [--budget 128MiB]

Records a run ten times the budget, then starts two interpreters: one that imports PyTorch and
trajfile, and one that also analyses the run within the budget. Prints the peak resident memory
(VmHWM) of both; the difference is held against the budget. Then the same for many small rows,
where the rows do not fit and blocks of time carry rows from one to the next.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import trajfile
from trajfile.engine.budget import format_bytes, parse_bytes

BASELINE = """
import sys, torch, h5py, trajfile, trajfile.analyze, trajfile.engine.stream, trajfile.metrics
import trajfile.containers.hdf5
torch.zeros(8, 8) @ torch.zeros(8, 8)
"""
ANALYSE = (
    BASELINE
    + """
report = trajfile.analyze(sys.argv[1], memory=int(sys.argv[2]))
print(report.run.bytes_read, report.run.peak_buffer_bytes)
"""
)
PEAK = """
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print(int(line.split()[1]) * 1024)
"""


def record(path: Path, columns: int, snapshots: int) -> None:
    """Record a random walk of parameters and gradients in a few tensors."""
    generator = np.random.default_rng(0)
    theta = generator.standard_normal(columns, dtype=np.float32)
    cut = columns // 3
    with trajfile.Writer(path, optimizer={"name": "SGD"}) as writer:
        for step in range(snapshots):
            gradient = generator.standard_normal(columns, dtype=np.float32)
            writer.append(
                step,
                params={"a": theta[:cut], "b": theta[cut:]},
                gradients={"a": gradient[:cut], "b": gradient[cut:]},
                scalars={"loss": float(np.vdot(theta, theta)) / columns, "learning_rate": 1e-3},
            )
            theta = theta - np.float32(1e-3) * gradient


def peak(code: str, *arguments: str) -> list[int]:
    """Run code in a fresh interpreter; the integers it prints, the peak resident bytes last."""
    command = [sys.executable, "-c", code + PEAK, *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [int(word) for word in output.split()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="128MiB")
    budget = parse_bytes(parser.parse_args().budget)
    within = True
    (bare,) = peak(BASELINE)
    print(f"interpreter with PyTorch: {format_bytes(bare)}")
    for name, snapshots in (("few long rows", 64), ("many short rows", 4096)):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.h5"
            record(path, 10 * budget // snapshots // 8, snapshots)
            read, buffers, taken = peak(ANALYSE, str(path), str(budget))
            print(
                f"{name}: file {format_bytes(path.stat().st_size)}, read {format_bytes(read)}, "
                f"budget {format_bytes(budget)}, buffers {format_bytes(buffers)}, "
                f"beyond the interpreter {format_bytes(taken - bare)}"
            )
            within &= taken - bare <= budget
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
