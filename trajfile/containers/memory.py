"""The in-memory container: the reference that HDF5 and Zarr are held against.

It keeps each row as the bits it was given, shares no storage code with the containers on disk, and
keeps a log of what was read, so that a test can show that every byte is read once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Commit
from trajfile.containers.checks import check_commit, row_count, stored_scalar
from trajfile.containers.scattered import laid_out
from trajfile.dtypes import bits_of
from trajfile.schema import ABSENT_BITS, FORMAT_VERSION, Manifest, check_manifest

_CHUNK_COLUMNS = 262144


class Read(NamedTuple):
    """One call of `MemoryContainer.read`: rows and columns as (start, stop)."""

    stream: str
    lane: str
    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclass
class _Stream:
    steps: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    lanes: list[dict[str, Array]] = field(default_factory=list)


class MemoryContainer:
    """A trajectory held in memory.

    Attributes:
        bytes_read: Bytes handed out by `read` so far.
        reads: Each call of `read` so far, in order.
    """

    kind = "memory"
    format_version = FORMAT_VERSION

    def __init__(self, manifest: Manifest, *, path: str = "memory", uuid: str | None = None):
        check_manifest(manifest)
        self.path = path
        self.uuid = uuid or str(uuid4())
        self.bytes_read = 0
        self.reads: list[Read] = []
        self._manifest = manifest
        self._commits: list[tuple[int, int, int]] = []
        self._streams = {stream.name: _Stream() for stream in manifest.streams}
        self._scalar_steps: list[int] = []
        self._scalar_rows: list[dict[str, np.float64]] = []

    def manifest(self) -> Manifest:
        """The revision in force."""
        return self._manifest

    def commits(self) -> NDArray[np.int64]:
        """Shape (commits, 3): sequence number, step and wall-clock time in ns since 1970."""
        return np.array(self._commits, np.int64).reshape(-1, 3)

    def committed_rows(self, stream: str) -> int:
        """Number of rows of a stream."""
        return len(self._streams[stream].steps)

    def keys(self, stream: str) -> tuple[NDArray[np.int64], NDArray[np.int32] | None]:
        """The step of each row and, for gradient samples, its sample index."""
        held = self._streams[stream]
        sampled = self._manifest.by_name[stream].sampled
        samples = np.array(held.samples, np.int32) if sampled else None
        return np.array(held.steps, np.int64), samples

    def scalars(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps, shape (rows,), and values, shape (rows, names); absent ones `ABSENT_BITS`."""
        names = self._manifest.scalars
        values = np.full((len(self._scalar_rows), len(names)), ABSENT_BITS, np.uint64)
        for row, present in enumerate(self._scalar_rows):
            for name, value in present.items():
                values[row, names.index(name)] = value.view(np.uint64)
        return np.array(self._scalar_steps, np.int64), values.view(np.float64)

    def read(self, stream: str, lane: str, rows: slice, columns: slice, out: Array) -> None:
        """Copy a block of rows into ``out``; columns a row does not have become zero bits."""
        bits = bits_of(out)
        bits[...] = 0
        for target, row in zip(bits, self._streams[stream].lanes[rows], strict=True):
            found = row[lane][columns]
            target[: len(found)] = found
        self.reads.append(
            Read(stream, lane, (rows.start, rows.stop), (columns.start, columns.stop))
        )
        self.bytes_read += out.nbytes

    def chunk_columns(self, stream: str, lane: str) -> int:
        """Width of a unit of reading: the lane, cut into equal parts of at most 262144."""
        columns = self._manifest.by_name[stream].lanes[lane]
        parts = max(1, -(-columns // _CHUNK_COLUMNS))
        return max(1, -(-columns // parts))

    def stored_bytes(self) -> int:
        """Bytes of the rows, keys and scalars."""
        rows = sum(
            array.nbytes
            for held in self._streams.values()
            for row in held.lanes
            for array in row.values()
        )
        keys = sum(8 * len(held.steps) + 4 * len(held.samples) for held in self._streams.values())
        return rows + keys + sum(8 + 8 * len(row) for row in self._scalar_rows)

    def append(self, commit: Commit) -> None:
        """Take the rows over; they are copied."""
        self._manifest = check_commit(self._manifest, commit)
        for name, rows in commit.rows.items():
            held = self._streams[name]
            for index in range(row_count(rows)):
                held.lanes.append(
                    {
                        lane: bits_of(np.array(laid_out(array)[index]))
                        for lane, array in rows.lanes.items()
                    }
                )
            held.steps.extend([commit.step] * row_count(rows))
            if rows.samples is not None:
                held.samples.extend(int(sample) for sample in rows.samples)
        if commit.scalars:
            self._scalar_steps.append(commit.step)
            self._scalar_rows.append({k: stored_scalar(v) for k, v in commit.scalars.items()})
        self._commits.append((len(self._commits), commit.step, time.time_ns()))

    def close(self) -> None:
        """Nothing to release; the content stays."""
