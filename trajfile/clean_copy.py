"""The clean copy of a damaged run: its manifest, and commits of what survived."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Commit, Rows
from trajfile.containers.salvage import Salvaged, enclosing
from trajfile.dtypes import numpy_dtype
from trajfile.repaired import RepairReport
from trajfile.schema import ABSENT_BITS, NOT_YET, Manifest, StreamSpec, TensorSpec
from trajfile.version import __version__

#: Where the manifest's metadata say that a file was repaired.
NOTE = "trajfile_repairs"

_MOST_NOTED = 20


def clean_manifest(
    found: Salvaged, kept: dict[str, NDArray[np.bool_]], report: RepairReport
) -> Manifest:
    """The manifest of the new file: rows are counted anew, and a note says why.

    Args:
        found: What can be read of the run.
        kept: For each stream which of its rows are kept.
        report: What became of the run.

    Returns:
        The manifest.
    """
    before = found.manifest()
    earlier = before.metadata.get(NOTE, [])
    note = {
        "software": f"trajfile {__version__}",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "lossy": report.lossy,
        "mended": list(report.mended[:_MOST_NOTED]),
        "lost": [
            *report.lost[:_MOST_NOTED],
            *(
                {
                    "stream": stream.name,
                    "rows": list(rows.rows),
                    "steps": None if rows.steps is None else list(rows.steps),
                    "reason": rows.reason,
                }
                for stream in report.streams
                for rows in stream.lost[:_MOST_NOTED]
            ),
        ],
    }
    return msgspec.structs.replace(
        before,
        streams=tuple(_counted(spec, kept[spec.name]) for spec in before.streams),
        metadata={**before.metadata, NOTE: [*(earlier if isinstance(earlier, list) else []), note]},
        software=f"trajfile {__version__}",
    )


def _counted(spec: StreamSpec, kept: NDArray[np.bool_]) -> StreamSpec:
    """The stream with first rows counted among the kept ones."""
    rows = int(kept.sum())
    settled: list[TensorSpec] = []
    waiting: list[TensorSpec] = []
    for tensor in spec.tensors:
        first = int(kept[: tensor.first_row].sum()) if tensor.first_row < NOT_YET else NOT_YET
        if tensor.first_row and first >= rows:
            first = NOT_YET  # no row is left that holds it
        moved = msgspec.structs.replace(tensor, first_row=first)
        (waiting if first == NOT_YET else settled).append(moved)
    return StreamSpec(spec.name, tuple(settled + waiting))


def surviving_commits(
    found: Salvaged, kept: dict[str, NDArray[np.bool_]], manifest: Manifest
) -> Iterator[Commit]:
    """The surviving rows in the order in which they were committed, a step at a time.

    Args:
        found: What can be read of the run.
        kept: For each stream which of its rows are kept.
        manifest: That of the new file.

    Yields:
        The commits of the new file.
    """
    at, values = found.scalars()
    names = manifest.scalars
    for before, record in enclosing(found.records):
        rows: dict[int, dict[str, list[int]]] = {}
        for number, stream in enumerate(manifest.by_name):
            steps, _ = found.keys(stream)
            for row in range(before.rows[number], record.rows[number]):
                if kept[stream][row]:
                    rows.setdefault(int(steps[row]), {}).setdefault(stream, []).append(row)
        scalars = {
            int(at[row]): _present(names, values[row])
            for row in range(before.scalar_rows, record.scalar_rows)
            if found.scalars_proven[row]
        }
        for step in sorted({*rows, *scalars}):
            yield Commit(
                step,
                {
                    stream: _rows(found, manifest.by_name[stream], which)
                    for stream, which in rows.get(step, {}).items()
                },
                scalars.get(step, {}),
                wall_ns=record.wall_ns,
            )


def _present(names: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float]:
    bits = values.view(np.uint64)
    pairs = zip(names, values, bits, strict=True)
    return {name: value for name, value, bit in pairs if bit != ABSENT_BITS}


def _rows(found: Salvaged, spec: StreamSpec, which: list[int]) -> Rows:
    lanes: dict[str, Array] = {}
    for lane, columns in spec.lanes.items():
        block = np.empty((len(which), columns), numpy_dtype(lane))
        for index, row in enumerate(which):
            place = slice(row, row + 1)
            found.read(spec.name, lane, place, slice(0, columns), block[index : index + 1])
        lanes[lane] = block
    # Samples are counted from 0 again: a file may not skip one.
    samples = np.arange(len(which), dtype=np.int32) if spec.sampled else None
    return Rows(lanes, samples)
