"""How long one pass over a run takes, against only reading and verifying the same rows.

    python tests/bench/one_pass.py [--columns 4000000] [--snapshots 128] [--repeats 5]

Records parameters and gradients with checksums, then alternates, in one process and with a warm
page cache: (a) reading the rows that the plan wants with the file's own library, h5py or zarr,
which verifies every checksum; (b) the same through this project's container, into one reused
buffer; and (c) `analyze` with every metric. Prints the seconds of each and the ratios of (c) to
both. The goal of 2 is held against (a), the smallest of each: what it takes whoever has the file
and no other tool to read and verify it. (b) takes all cores where Numba is installed, as (c) does;
the library takes one. On a machine that others use too, look at the processor seconds.
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


def read_by_library(path: Path) -> float:
    """Read the same rows, strip by strip, with the library of the file's format; seconds."""
    with trajfile.open(path) as trajectory:
        strips = [
            (f"streams/{stream}/{run.lane}", run.lane_start, run.lane_start + run.stop - run.start)
            for strip in plan(trajectory).strips
            for stream, runs in strip.runs.items()
            for run in runs
        ]
        count = trajectory.container.committed_rows("params")
    if path.suffix == ".zarr":
        import zarr

        group = zarr.open_group(path, mode="r")
        start = time.perf_counter()
        for name, a, b in strips:
            group[name][:count, a:b]
        return time.perf_counter() - start
    import h5py

    buffer = np.zeros((count, max(b - a for _, a, b in strips)), np.float32)
    with h5py.File(path, "r") as file:
        start = time.perf_counter()
        for name, a, b in strips:
            file[name].read_direct(buffer, np.s_[:, a:b], np.s_[:, : b - a])
        return time.perf_counter() - start


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
        library, reading, analysing = [], [], []
        for repeat in range(options.repeats):
            library.append(read_by_library(path))
            start = time.process_time()
            seconds, count = read_only(path)
            between = time.process_time()
            taken, analysed_bytes = analysed(path)
            busy = between - start, time.process_time() - between
            reading.append(seconds)
            analysing.append(taken)
            print(
                f"{repeat}: library {library[-1]:.2f} s, read {seconds:.2f} s "
                f"({count / seconds / 1e9:.2f} GB/s), analyze {taken:.2f} s; processor seconds of "
                f"the last two {busy[0]:.2f} and {busy[1]:.2f}, ratio {busy[1] / busy[0]:.2f}"
            )
            assert analysed_bytes == count, "not every byte was read once"
    ratio = min(analysing) / min(library)
    print(
        f"best of each: {ratio:.2f} times the library's reading (goal {GOAL}), "
        f"{min(analysing) / min(reading):.2f} times our own"
    )
    return 0 if ratio <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
