"""How long one pass over a run takes, against only reading and verifying the same rows.

    python tests/bench/one_pass.py [--columns 4000000] [--snapshots 128] [--repeats 5]

Records parameters and gradients with checksums, then alternates, in one process and with a warm
page cache: (a) reading the rows that the plan wants through the same container into one reused
buffer, and (b) `analyze` with every metric. Prints the seconds of each and their ratio, of which
the smallest of each is held against the goal of 2. Both take all cores where Numba is installed, so
on a machine that others use too, look at the processor seconds: their ratio is what the ratio of
times would be if the cores were free. A goal of 2 against reading on one core is half of it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import trajfile
from trajfile.analyze import plan

GOAL = 2.0


def tensors(columns: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a convolutional network: a few large tensors, many small ones, a linear head."""
    shapes: dict[str, tuple[int, ...]] = {}
    left = columns
    for block in range(100):
        width = 32 + 4 * block
        for name, shape in (
            (f"layer{block}.conv.weight", (width, width, 3, 3)),
            (f"layer{block}.norm.weight", (width,)),
            (f"layer{block}.norm.bias", (width,)),
        ):
            if np.prod(shape) > left - 120_000:
                continue
            shapes[name] = shape
            left -= int(np.prod(shape))
    for name, shape in (
        ("fc1.weight", (128, 256)),
        ("fc2.weight", (64, 128)),
        ("fc1.bias", (128,)),
    ):
        shapes[name] = shape
        left -= int(np.prod(shape))
    shapes["embedding"] = (left,)
    return shapes


def record(path: Path, columns: int, snapshots: int) -> None:
    """Record a noisy descent: every update moves the parameters by about 1e-3 of their size."""
    generator = np.random.default_rng(0)
    shapes = tensors(columns)
    theta = generator.standard_normal(columns, dtype=np.float32)
    cuts = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1]

    def named(flat: np.ndarray) -> dict[str, np.ndarray]:
        parts = np.split(flat, cuts)
        return {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}

    with trajfile.Writer(
        path,
        optimizer={"name": "SGD", "weight_decay": 1e-4, "momentum": 0.0},
        groups={
            "scale_invariant": [name for name in shapes if name.endswith("conv.weight")],
            "layers": ["fc1.weight", "fc2.weight"],
        },
        gradient={"stage": "raw", "source": "full_batch"},
    ) as writer:
        for step in range(snapshots):
            gradient = theta + generator.standard_normal(columns, dtype=np.float32)
            writer.append(
                step,
                params=named(theta),
                gradients=named(gradient),
                scalars={"loss": float(np.vdot(theta, theta)) / columns, "learning_rate": 1e-3},
            )
            theta = theta - np.float32(1e-3) * gradient


def read_only(path: Path) -> tuple[float, int]:
    """Read every strip's rows through the container, into one buffer; seconds and bytes."""
    from trajfile.engine.staging import read_tile, tile_parts

    with trajfile.open(path) as trajectory:
        planned = plan(trajectory)
        buffer = np.zeros(planned.slot_bytes, np.uint8)
        start = time.perf_counter()
        count = 0
        for strip in planned.strips:
            for block in planned.blocks:
                parts = tile_parts(strip, block)
                rows = planned.layout.rows
                count += read_tile(trajectory.container, parts, block, rows, buffer)
        return time.perf_counter() - start, count


def analysed(path: Path) -> tuple[float, int]:
    """Analyse with every metric; seconds and bytes."""
    with trajfile.open(path) as trajectory:
        start = time.perf_counter()
        report = trajfile.analyze(trajectory)
        return time.perf_counter() - start, report.run.bytes_read


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=4_000_000)
    parser.add_argument("--snapshots", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--suffix", default=".h5", choices=[".h5", ".zarr"])
    parser.add_argument("--run", type=Path, help="keep the recorded run here, and reuse it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.run or Path(folder) / f"run{options.suffix}"
        if not path.exists():
            record(path, options.columns, options.snapshots)
        analysed(path)  # imports, and the page cache
        reading, analysing = [], []
        for repeat in range(options.repeats):
            start = time.process_time()
            seconds, count = read_only(path)
            between = time.process_time()
            taken, analysed_bytes = analysed(path)
            busy = between - start, time.process_time() - between
            reading.append(seconds)
            analysing.append(taken)
            print(
                f"{repeat}: read {seconds:.2f} s ({count / seconds / 1e9:.2f} GB/s), "
                f"analyze {taken:.2f} s, ratio {taken / seconds:.2f}; processor seconds "
                f"{busy[0]:.2f} and {busy[1]:.2f}, ratio {busy[1] / busy[0]:.2f}"
            )
            assert analysed_bytes == count, "not every byte was read once"
    ratio = min(analysing) / min(reading)
    print(f"best of each: ratio {ratio:.2f}, goal {GOAL}")
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
