"""Every comparison of speed in one run, ratios first.

    python -m tests.bench [--quick] [--only reading,storage,scaling,writing] [--sizes small,middle]
                          [--rounds 3] [--folder DIR] [--writers raw,np_save] [--synced]
                          [--json PATH]

Contenders of a comparison take turns on the same data, each in a process of its own; the fastest
of several rounds counts, after one that warms the page cache and compiles. Memory is the most that
a process held beyond what it held with everything imported; pages of files that are mapped count.
``--quick`` takes fewer snapshots. A full run wants 60 GB of disk and as much memory as the largest
comparison has bytes (50 GB), so that the page cache holds them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .contenders import CONTENDERS
from .data import Size, record, save_h5py, save_safetensors, save_torch
from .rounds import Taken, alternate

FULL = (
    Size("small", 20_000, 5_000),
    Size("middle", 500, 4_000_000),
    Size("large", 16, 125_000_000),
)
QUICK = (
    Size("small", 2_000, 5_000),
    Size("middle", 64, 4_000_000),
    Size("large", 4, 50_000_000),
)
#: Of every comparison with how much of the other's time the tool is to do.
GOALS = {
    ("small", "plain_loop"): 1 / 10,
    ("small", "h5py_tensors"): 1 / 10,
    ("middle", "reader"): 1.3,
    ("middle", "torch_load"): 1 / 2,
    ("large", "reader"): 1.3,
}
#: What the ratio is of.
_RATIOS = {
    "reading": "ratio: the tool's time over the contender's",
    "scaling": "ratio: time a byte over that of the first",
    "writing": "ratio: the contender's time over that of the raw bytes, a byte",
}
#: Objects that an HDF5 file or Zarr folder is given at most, where each tensor is one.
_MOST_OBJECTS = 2_000
Row = dict[str, Any]


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        yield Path(name)


def reading(size: Size, folder: Path | None, rounds: int) -> Iterator[Row]:
    """The tool against reading only, and against what a script would do."""
    with scratch(folder) as place:
        run = str(record(place / "run.h5", size))
        torch_files = str(save_torch(place / "pt", size))
        mapped = str(save_safetensors(place / "safetensors", size))
        files = {"torch_load": torch_files, "safetensors_mapped": mapped}
        if size.name == "small":  # where a call for each tensor counts
            files["h5py_tensors"] = str(save_h5py(place / "tensors.h5", size))
        own = ("tool", "reader", "plain_read", "plain_loop", "plain_products")
        files |= dict.fromkeys(own, run)
        names = (name for name in CONTENDERS if name in files)
        told = alternate({name: ("read", name, files[name]) for name in names}, rounds)
    for name, taken in told.items():
        ratio = told["tool"].seconds / taken.seconds
        yield line(f"reading {size.name}", name, size, taken, ratio, GOALS.get((size.name, name)))


def storage(size: Size, folder: Path | None, rounds: int) -> Iterator[Row]:
    """Containers, compression and dtypes: the tool against reading only, and against decoding."""
    plain = None
    for suffix in (".h5", ".zarr"):
        for compression in (None, "zstd"):
            for dtype in ("float32", "bfloat16"):
                some = Size(size.name, size.rows, size.columns, dtype)
                with scratch(folder) as place:
                    run = str(record(place / f"run{suffix}", some, compression))
                    contenders = {n: ("read", n, run) for n in ("tool", "reader")}
                    if compression and suffix == ".h5":
                        contenders["decoding"] = ("read", "decoding", run)
                    told = alternate(contenders, rounds)
                plain = plain or told["tool"]
                label = f"{suffix[1:]} {compression or 'plain'} {dtype}"
                tool = told["tool"].seconds
                for name, taken in told.items():
                    goal = 1.3 if name == ("decoding" if compression else "reader") else None
                    ratio = tool / taken.seconds
                    yield line("storage", f"{label}: {name}", some, taken, ratio, goal)
                if dtype == "bfloat16" and suffix == ".h5" and compression is None:
                    yield line(
                        "storage", "plain float32, by row", some, plain, tool / plain.seconds, 1.0
                    )


def scaling(quick: bool, folder: Path | None, rounds: int) -> Iterator[Row]:
    """Time a byte and memory, over numbers of rows and of columns."""
    scale = 4 if quick else 1
    series = {
        "rows": [(100, 2_000_000 // scale), (1_000, 200_000 // scale), (10_000, 20_000 // scale)],
        "columns": [
            (1_000 // scale, 1_000_000),
            (100 // scale, 10_000_000),
            (12, 100_000_000 // scale),
            (2, 50_000_000 if quick else 500_000_000),
        ],
    }
    for name, shapes in series.items():
        first: float | None = None
        for rows, columns in shapes:
            size = Size(f"{name}", rows, columns)
            with scratch(folder) as place:
                run = str(record(place / "run.h5", size))
                taken = alternate({"tool": ("read", "tool", run)}, rounds)["tool"]
            first = first or taken.seconds / size.nbytes
            ratio = taken.seconds / size.nbytes / first
            yield line(f"scaling over {name}", "tool", size, taken, ratio, 1.3)


def writing(
    size: Size, folder: Path | None, rounds: int, wanted: list[str], *, synced: bool
) -> Iterator[Row]:
    """The writer against the same bytes raw, and against other ways to keep them."""
    from .writers import WRITERS

    sizes = {}
    with scratch(folder) as place:
        contenders = {}
        for name in dict.fromkeys(("raw", *(wanted or WRITERS))):
            rows = size.rows
            if name in {"zarr_tensors", "h5py_tensors"}:  # one that makes an object a tensor
                rows = max(1, min(rows, _MOST_OBJECTS // (2 * len(size.shapes()))))
            sizes[name] = Size(size.name, rows, size.columns, size.dtype)
            (place / name).mkdir()
            shape = (str(rows), str(size.columns), size.dtype, *(["synced"] if synced else []))
            contenders[name] = ("write", name, str(place / name), *shape)
        told = alternate(contenders, rounds)
    raw = told["raw"].seconds / size.nbytes
    for name, taken in told.items():
        ratio = taken.seconds / sizes[name].nbytes / raw
        goal = 1 / 0.8 if name == "trajfile_hdf5" and size.name == "large" else None
        row = line(f"writing {size.name}", name, sizes[name], taken, ratio, goal)
        yield row | {"commits_a_second": sizes[name].rows / taken.seconds}


def line(
    comparison: str, name: str, size: Size, taken: Taken, ratio: float, goal: float | None
) -> Row:
    row: Row = {
        "comparison": comparison,
        "contender": name,
        "size": size.label,
        "ratio": ratio,
        "goal": goal,
        "seconds": taken.seconds,
        "GB_a_second": size.nbytes / taken.seconds / 1e9,
        "memory_MiB": taken.memory / 2**20,
    }
    return row


def show(row: Row, last: str) -> str:
    comparison = str(row["comparison"])
    if comparison != last:
        against = "reading" if comparison.startswith(("reading", "storage")) else comparison
        print(f"\n{comparison} ({_RATIOS[against.split()[0]]})")
        head = ("ratio", "goal", "seconds", "GB/s", "MiB")
        print(" " * 34 + "".join(f"{word:>10}" for word in head))
    goal = "" if row["goal"] is None else f"{row['goal']:.2f}"
    missed = "  missed" if row["goal"] is not None and row["ratio"] > row["goal"] else ""
    commits = f"  {row['commits_a_second']:.0f} commits/s" if "commits_a_second" in row else ""
    print(
        f"{row['contender']:<22}{row['size']:>12}{row['ratio']:>10.2f}{goal:>10}"
        f"{row['seconds']:>10.3f}{row['GB_a_second']:>10.2f}{row['memory_MiB']:>10.0f}"
        f"{commits}{missed}",
        flush=True,
    )
    return comparison


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer snapshots")
    parser.add_argument("--only", default="reading,storage,scaling,writing")
    parser.add_argument("--sizes", default="small,middle,large")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the data lie; a temporary folder")
    parser.add_argument("--writers", default="", help="of what is held against one another, these")
    parser.add_argument(
        "--synced", action="store_true", help="what is written must have reached the disk"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = [s for s in (QUICK if options.quick else FULL) if s.name in options.sizes.split(",")]
    wanted = options.only.split(",")
    writers = [name for name in options.writers.split(",") if name]
    free = shutil.disk_usage(options.folder or tempfile.gettempdir()).free
    cores = len(os.sched_getaffinity(0))
    print(
        f"{platform.machine()}, {cores} cores, Python {platform.python_version()}, "
        f"{free / 1e9:.0f} GB free; {options.rounds} rounds, the fastest"
    )
    rows: list[Row] = []
    last = ""

    def told(found: Iterator[Row]) -> None:
        nonlocal last
        for row in found:
            rows.append(row)
            last = show(row, last)

    for size in sizes:
        if "reading" in wanted:
            told(reading(size, options.folder, options.rounds))
    for size in sizes:
        if "storage" in wanted and size.name == "middle":
            told(storage(size, options.folder, options.rounds))
    if "scaling" in wanted:
        told(scaling(options.quick, options.folder, options.rounds))
    for size in sizes:
        if "writing" in wanted:
            told(writing(size, options.folder, options.rounds, writers, synced=options.synced))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 1 if any(r["goal"] is not None and r["ratio"] > r["goal"] for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
