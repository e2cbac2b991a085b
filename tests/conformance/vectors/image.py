"""The arrays of a trajectory, worked out from spec/format.md, sections 1 to 4.

An `Image` can be spoilt before it is written: that is how most broken vectors come about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np

from tests.conformance.vectors.runs import ABSENT, FIRST_WALL_NS, SIZES, Bits, Run

COMMITS = "commits"


@dataclass
class Lane:
    """One lane: its rows may differ in length, since lanes widen."""

    dtype: str
    rows: list[Bits]
    at_creation: int


@dataclass(frozen=True)
class Style:
    """What a writer is free to choose.

    Attributes:
        width: Columns of a chunk of a lane.
        height: Its rows; more than one in archives.
        joined_width: The same for columns that join, where they lie apart.
        shard: Chunks of a shard in Zarr.
        table_rows: Rows of a table's chunk.
        compression: None, ``gzip`` or ``zstd``; in archives in Zarr also ``blosc``.
        shuffle: Whether HDF5 shuffles bytes before it compresses.
        spare: Rows and columns by which the arrays are larger than what is committed.
        joined: Whether HDF5 has a dataset for columns that join where none has.
        killed: Whether the file is as a killed writer left it.
    """

    width: int = 4
    height: int = 1
    joined_width: int = 4
    shard: int = 1
    table_rows: int = 8
    compression: str | None = None
    shuffle: bool = False
    spare: tuple[int, int] = (0, 0)
    joined: bool = True
    killed: bool = False


@dataclass
class Image:
    """All that is written.

    Attributes:
        attributes: Of the root.
        tables: Arrays by key, one- or two-dimensional.
        lanes: Lanes by key.
        others: Further arrays by key, that a reader must ignore.
        style: How it is written.
    """

    attributes: dict[str, Any]
    tables: dict[str, np.ndarray]
    lanes: dict[str, Lane]
    others: dict[str, np.ndarray] = field(default_factory=dict)
    style: Style = field(default_factory=Style)


def crc(data: bytes, before: int = 0) -> int:
    """CRC-32C, going on from what came before."""
    return int(google_crc32c.extend(before, data))


def line(revision: Mapping[str, Any]) -> bytes:
    """A revision as a line of the manifest."""
    return json.dumps(revision, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def image_of(run: Run, style: Style | None = None) -> Image:
    """The arrays of a run.

    Args:
        run: The run.
        style: How to write it.

    Returns:
        Its arrays, all of them committed.
    """
    names = [stream["name"] for stream in run.revisions[0]["streams"]]
    lines = [line(revision) for revision in run.revisions]
    steps: dict[str, list[int]] = {name: [] for name in names}
    samples: list[int] = []
    keys = dict.fromkeys(names, b"")
    scalar_steps: list[int] = []
    scalar_bytes, scalar_rows = b"", []
    lanes = {
        f"streams/{stream['name']}/{dtype}": Lane(dtype, [], columns)
        for stream in run.revisions[0]["streams"]
        for dtype, columns in widths(stream).items()
    }
    records, used = [], 1
    last = run.revisions[-1]
    for number, commit in enumerate(run.commits):
        used += commit.revision
        revision = run.revisions[used - 1]
        for name, count in commit.rows.items():
            for sample in range(count):
                row = len(steps[name])
                for key, lane in lanes.items():
                    if key.rpartition("/")[0] == f"streams/{name}":
                        lane.rows.append(run.lane_row(revision, name, lane.dtype, row))
                steps[name].append(commit.step)
                keys[name] += commit.step.to_bytes(8, "little")
                if name == "gradient_samples":
                    samples.append(sample)
                    keys[name] += sample.to_bytes(4, "little")
        if commit.scalars:
            present = [(2**32 - 1, commit.step)] + [
                (column, commit.scalars[name])
                for column, name in enumerate(revision["scalars"])
                if name in commit.scalars
            ]
            for column, bits in present:
                entry = (len(scalar_steps).to_bytes(8, "little"), column.to_bytes(4, "little"))
                scalar_bytes += b"".join(entry) + bits.to_bytes(8, "little")
            scalar_steps.append(commit.step)
            scalar_rows.append([commit.scalars.get(name, ABSENT) for name in last["scalars"]])
        committed = b"".join(lines[:used])
        records.append(
            record(
                *(number, commit.step, FIRST_WALL_NS + number, len(committed), len(scalar_steps)),
                *(len(steps[name]) for name in names),
                *(crc(committed), crc(scalar_bytes), *(crc(keys[name]) for name in names)),
            )
        )
    tables = {
        "manifest": np.frombuffer(b"".join(lines), np.uint8),
        COMMITS: np.array(records, "<u8").reshape(-1, 8 + 2 * len(names)),
        "scalars/step": np.array(scalar_steps, "<i8"),
        "scalars/value": np.array(scalar_rows, "<u8").reshape(
            len(scalar_rows), len(last["scalars"])
        ),
        **{f"streams/{name}/step": np.array(steps[name], "<i8") for name in names},
    }
    if "gradient_samples" in names:
        tables["streams/gradient_samples/sample"] = np.array(samples, "<i4")
    attributes = {
        **{"format": "trajfile", "format_version": list(run.version), "uuid": run.uuid},
        **{"requires": [], "uses": []},
    }
    return Image(attributes, tables, lanes, {}, style or Style())


def record(*values: int) -> list[int]:
    """A commit record: the values and their CRC."""
    return [*values, crc(np.array(values, "<u8").tobytes())]


def widths(stream: Mapping[str, Any]) -> dict[str, int]:
    """Columns of each lane of a stream."""
    found: dict[str, int] = {}
    for tensor in stream["tensors"]:
        size = int(np.prod(tensor["shape"], dtype=np.int64))
        found[tensor["dtype"]] = found.get(tensor["dtype"], 0) + size
    return found


def item(dtype: str) -> int:
    """Bytes of an element."""
    return SIZES.get(dtype, 4)
