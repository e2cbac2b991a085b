"""How small and how fast archives are: `python tests/bench/archive.py [folder of runs]`.

For each sample run, and for a network of 300,000 parameters recorded at consecutive steps of its
training, the size of every layout and compression relative to the raw rows. For the network too the
speed at which all rows are read in blocks of columns, as an analysis reads them, and one row after
another, as a loop over steps reads them.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

import trajfile
from trajfile.containers import open_container
from trajfile.dtypes import numpy_dtype

SAMPLES = Path(__file__).parents[2] / "sample_data"
LAYOUTS = [
    (suffix, layout, compression)
    for suffix in (".h5", ".zarr")
    for layout, compression in (("rows", "none"), ("rows", "zstd"), ("archive", "zstd"))
]


def train(path: Path, steps: int = 64, width: int = 512) -> Path:
    """A multilayer perceptron on the digits, past its first hundred steps."""
    torch.manual_seed(0)
    images, labels = (torch.tensor(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    model = torch.nn.Sequential(
        torch.nn.Linear(64, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, 10),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with trajfile.Writer(path, optimizer={"name": "SGD", "momentum": 0.9}) as writer:
        for step in range(100 + steps):
            batch = torch.randint(len(labels), (64,))
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            if step >= 100:
                writer.append(step, params=dict(model.named_parameters()))
            optimizer.step()
    return path


def read_all(path: Path) -> float:
    """GB of raw rows a second."""
    container = open_container(path)
    started, count = time.perf_counter(), 0
    for stream in container.manifest().streams:
        rows = container.committed_rows(stream.name)
        for lane, columns in stream.lanes.items():
            width = container.chunk_columns(stream.name, lane)
            for start in range(0, columns, width):
                stop = min(start + width, columns)
                out = np.empty((rows, stop - start), numpy_dtype(lane))
                container.read(stream.name, lane, slice(0, rows), slice(start, stop), out)
                count += out.nbytes
    container.close()
    return count / (time.perf_counter() - started) / 1e9


def read_rows(path: Path) -> float:
    """GB of raw rows a second."""
    container = open_container(path)
    started, count = time.perf_counter(), 0
    for stream in container.manifest().streams:
        for lane, columns in stream.lanes.items():
            out = np.empty((1, columns), numpy_dtype(lane))
            for row in range(container.committed_rows(stream.name)):
                container.read(stream.name, lane, slice(row, row + 1), slice(0, columns), out)
                count += out.nbytes
    container.close()
    return count / (time.perf_counter() - started) / 1e9


def ratios(run: Path, folder: Path, *, timed: bool) -> None:
    """One line of figures."""
    cells = []
    for suffix, layout, compression in LAYOUTS:
        out = folder / f"{layout}-{compression}{suffix}"
        done = trajfile.convert(run, out, layout=layout, compression=compression, overwrite=True)
        cell = f"{done.stored_bytes / max(1, done.raw_bytes):6.3f}"
        if timed:
            columns, rows = (max(read(out) for _ in range(3)) for read in (read_all, read_rows))
            cell += f" {columns:5.2f} {rows:5.2f} GB/s"
        cells.append(cell)
    print(f"{run.name:36}" + "  ".join(f"{cell:>23}" for cell in cells), flush=True)


def main() -> None:
    """Print the table."""
    names = [f"{suffix[1:]} {layout} {packed}" for suffix, layout, packed in LAYOUTS]
    print(" " * 36 + "  ".join(f"{name:>23}" for name in names))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        runs = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES
        ratios(train(folder / "network.h5"), folder, timed=True)
        for run in sorted([*runs.glob("*.h5"), *runs.glob("*.zarr")]):
            ratios(run, folder, timed=False)


if __name__ == "__main__":
    main()
