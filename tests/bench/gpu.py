"""What a pass costs on a CUDA device, against the two roads every byte must take to it.

    python tests/bench/gpu.py [--columns 4000000] [--snapshots 128] [--folder DIR] [--json PATH]
    python tests/bench/gpu.py --ops [--columns 4000000] [--snapshots 32]

In one process, on the same files, warm page cache: (a) reading and verifying the rows that the plan
wants through the container, on one thread and on several; (b) copying pinned memory to the device;
(c) `analyze` with every metric on the device; (d) the same on the processor. The device is held
against the slower of the two roads: goal 80 %. A last case limits the device's memory to a
fraction of the file.

A device is idle while its host asks for small operations one by one, so it is counted what PyTorch
is asked for with each tile: operations in all, and those among them that are more than views of
memory. With ``--ops`` there is only the count, on the processor: it needs no card.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from one_pass import record
from operations import CountingMachine

import trajfile
from trajfile.analyze import plan
from trajfile.engine.staging import read_tile, tile_parts
from trajfile.engine.stream import run_pass

GOAL = 0.8


def best(repeats: int, work: Callable[[], int]) -> float:
    """The best throughput of several runs, GB/s."""
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        count = work()
        rates.append(count / (time.perf_counter() - start) / 1e9)
    return max(rates)


def read_only(path: Path, threads: int) -> int:
    """Read and verify all that the plan wants, each thread tile by tile into its own buffer."""
    with trajfile.open(path) as trajectory:
        planned = plan(trajectory)
        tiles = [(strip, block) for strip in planned.strips for block in planned.blocks]

        def share(number: int) -> int:
            buffer = np.zeros(planned.slot_bytes, np.uint8)
            return sum(
                read_tile(
                    trajectory.container,
                    tile_parts(strip, block),
                    block,
                    planned.layout.rows,
                    buffer,
                )
                for strip, block in tiles[number::threads]
            )

        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(share, range(threads)))


def pinned_copy(size: int = 2**28, copies: int = 40) -> int:
    """Copy pinned host memory to the device; bytes copied."""
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    device = torch.empty(size, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    for _ in range(copies):
        device.copy_(host, non_blocking=True)
    torch.cuda.synchronize()
    return size * copies


def analysed(path: Path, device: str) -> int:
    """Analyse with every metric; bytes read."""
    return trajfile.analyze(path, device=device).run.bytes_read


def counted(path: Path, device: str) -> CountingMachine:
    """Make the pass of every metric as on a card, and count what is asked for.

    Args:
        path: The run.
        device: Where tensors are: the card, or ``cpu``.

    Returns:
        The machine, with its counts.
    """
    planned = plan(path, device="cuda")
    machine = CountingMachine(planned.profile, device)
    with trajfile.open(path) as trajectory:
        run_pass(planned, trajectory.container, machine)
    columns = sum(strip.columns for strip in planned.strips)
    print(
        f"{path.suffix}: {columns:,} columns, {machine.tiles} tiles, of each up to "
        f"{planned.columns:,} columns at a time; {machine.operations:.1f} operations a tile, "
        f"{machine.kernels:.1f} of them more than views",
        flush=True,
    )
    return machine


def only_counted(options: argparse.Namespace) -> int:
    """Count on the processor."""
    for suffix in options.suffix or [".h5"]:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / f"run{suffix}"
            record(path, options.columns, options.snapshots)
            counted(path, "cpu")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--columns", type=int, default=4_000_000)
    parser.add_argument("--snapshots", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the runs are recorded for the time")
    parser.add_argument("--suffix", action="append", choices=[".h5", ".zarr"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ops", action="store_true", help="count operations only, without a card")
    options = parser.parse_args()
    if options.ops:
        return only_counted(options)
    cores = len(os.sched_getaffinity(0))
    card = torch.cuda.get_device_name(0)
    pinned_copy(copies=2)
    copying = best(options.repeats, pinned_copy)
    print(f"{card}, {cores} cores; pinned host to device {copying:.1f} GB/s")
    figures = []
    for suffix in options.suffix or [".h5", ".zarr"]:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / f"run{suffix}"
            record(path, options.columns, options.snapshots)
            analysed(path, "cuda")  # imports, kernels, the page cache
            threads = [n for n in (1, 2, 4, 8, 16) if n <= cores]
            reading = {
                n: best(options.repeats, lambda n=n, path=path: read_only(path, n)) for n in threads
            }
            asked = counted(path, "cuda:0")
            cuda = best(options.repeats, lambda path=path: analysed(path, "cuda"))
            cpu = best(options.repeats, lambda path=path: analysed(path, "cpu"))
            fraction = 2**31 / torch.cuda.get_device_properties(0).total_memory
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(fraction)
            small = best(1, lambda path=path: analysed(path, "cuda"))
            torch.cuda.set_per_process_memory_fraction(1.0)
            road = min(max(reading.values()), copying)
            share = cuda / road
            print(
                f"{suffix}: read and verify "
                + ", ".join(f"{rate:.2f} on {n}" for n, rate in reading.items())
                + f"; analyze {cuda:.2f} on cuda ({share:.0%} of the slower road, goal "
                f"{GOAL:.0%}), {cpu:.2f} on cpu; {small:.2f} on cuda in 2 GiB of its memory "
                "(GB/s)",
                flush=True,
            )
            figures.append(
                {
                    "card": card,
                    "suffix": suffix,
                    "columns": options.columns,
                    "snapshots": options.snapshots,
                    "read": reading,
                    "copy": copying,
                    "cuda": cuda,
                    "cpu": cpu,
                    "cuda_in_2GiB": small,
                    "share": share,
                    "operations": asked.operations,
                    "kernels": asked.kernels,
                }
            )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    return 0 if all(f["share"] >= GOAL for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
