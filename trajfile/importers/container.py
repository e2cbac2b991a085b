"""A folder of checkpoints behind the protocol of containers: read in place, never written."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Commit, check_block
from trajfile.dtypes import bits_of
from trajfile.errors import Damaged, UsageError
from trajfile.importers import CHECKPOINTS
from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.files import File, Files
from trajfile.importers.folder import Found
from trajfile.importers.table import Table, tables
from trajfile.schema import (
    ABSENT_BITS,
    FORMAT_VERSION,
    Manifest,
    SchemaError,
    TensorSpec,
    check_manifest,
)

_CHUNK_COLUMNS = 262144
_SAMPLE = 4096
_LEARNING_RATE = "learning_rate"


class CheckpointContainer:
    """Checkpoints as one trajectory.

    Args:
        path: The folder or file, for messages.
        found: The checkpoints.
        files: Reads them; closed with the container.

    Attributes:
        checkpoints: The checkpoints, in the order of their steps.
        left_out: Entries of the folder that are not read, by the reason in words.
        counted_in: What the steps count: ``steps`` or ``epochs``; ``unknown`` for a single
            checkpoint that does not say.
    """

    format_version = FORMAT_VERSION

    def __init__(self, path: Path, found: Found, files: Files):
        self.path = str(path)
        self.checkpoints: Sequence[Checkpoint] = found.checkpoints
        self.left_out = {reason: tuple(names) for reason, names in found.left_out.items()}
        self.counted_in = found.counted_in
        self.kind = self.checkpoints[0].kind + CHECKPOINTS
        self._files = files
        self._tables = tables(self.checkpoints)
        self._scalars = _scalars(self.checkpoints)
        self._manifest = self._made(path)
        self._starts = {
            (stream, lane): [t.offset for t in _of_lane(table, lane)]
            for stream, table in self._tables.items()
            for lane in table.spec.lanes
        }
        self._lanes = {
            (stream, lane): _of_lane(table, lane)
            for stream, table in self._tables.items()
            for lane in table.spec.lanes
        }
        root = path if path.is_dir() else path.parent
        ran = "".join(checkpoint.ran for checkpoint in self.checkpoints)
        self.uuid = _identity(self._all_files(), files, root, ran)

    def manifest(self) -> Manifest:
        """What the checkpoints hold."""
        return self._manifest

    def commits(self) -> NDArray[np.int64]:
        """Shape (steps, 3): number, step, and when the checkpoint was written in ns since 1970."""
        written = {c.step: max(f.mtime_ns for f in c.files) for c in self.checkpoints}
        last = max(written.values())
        steps = sorted({*written, *self._scalars[0].tolist()})
        return np.array(
            [(n, step, written.get(step, last)) for n, step in enumerate(steps)], np.int64
        ).reshape(-1, 3)

    def committed_rows(self, stream: str) -> int:
        """Number of checkpoints that hold the stream."""
        return len(self._tables[stream].rows)

    def keys(self, stream: str) -> tuple[NDArray[np.int64], NDArray[np.int32] | None]:
        """The step of each checkpoint that holds the stream."""
        return np.array(self._tables[stream].steps, np.int64), None

    def scalars(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps, shape (rows,), and values, shape (rows, names); absent ones `ABSENT_BITS`."""
        steps, values, _ = self._scalars
        return steps, values

    def read(self, stream: str, lane: str, rows: slice, columns: slice, out: Array) -> None:
        """Read a block, fetching only its bytes.

        Args:
            stream: The stream.
            lane: The lane, named by its dtype.
            rows: Contiguous rows.
            columns: Contiguous columns.
            out: C-contiguous, shape (rows, columns), in the lane's dtype.

        Raises:
            UsageError: If the block is not within the rows and the lane's columns.
            Damaged: If a file is shorter, or another, than when the folder was opened.
        """
        table = self._tables[stream]
        shape = len(table.rows), table.spec.lanes[lane]
        check_block(f"{stream}/{lane}", shape, rows, columns, out)
        bits = bits_of(out)
        held = list(self._within(stream, lane, columns))
        jobs: list[Callable[[], None]] = []
        for index, row in enumerate(range(rows.start, rows.stop)):
            for tensor, start, stop in held:
                at = tensor.offset + start - columns.start
                target = bits[index, at : at + stop - start]
                if row < tensor.first_row:
                    target[:] = 0
                else:
                    place = table.rows[row][tensor.name]
                    jobs.append(partial(place.read, self._files, start, stop, target))
        self._files.each(jobs)

    def chunk_columns(self, stream: str, lane: str) -> int:
        """Width of a unit of reading: the lane, cut into equal parts of at most 262144."""
        columns = self._tables[stream].spec.lanes[lane]
        parts = max(1, -(-columns // _CHUNK_COLUMNS))
        return max(1, -(-columns // parts))

    def stored_bytes(self) -> int:
        """Bytes of the files that tensors are read from."""
        return sum(file.size for file in self._all_files())

    def append(self, commit: Commit) -> None:
        """Checkpoints are read only.

        Args:
            commit: Is not taken.

        Raises:
            UsageError: Always.
        """
        del commit
        raise UsageError(f"{self.path} holds checkpoints, which are read only: record a new file")

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def _within(
        self, stream: str, lane: str, columns: slice
    ) -> Iterator[tuple[TensorSpec, int, int]]:
        """The tensors that columns touch, each with the first and last of its elements there."""
        tensors = self._lanes[stream, lane]
        first = max(0, bisect_right(self._starts[stream, lane], columns.start) - 1)
        for tensor in tensors[first:]:
            if tensor.offset >= columns.stop:
                break
            start = max(0, columns.start - tensor.offset)
            stop = min(tensor.size, columns.stop - tensor.offset)
            if start < stop:
                yield tensor, start, stop

    @property
    def tensors_left_out(self) -> dict[str, tuple[str, ...]]:
        """Tensors that are not read, by the reason in words, of the first that leaves them out."""
        left: dict[str, tuple[str, ...]] = {}
        for checkpoint in self.checkpoints:
            for reason, names in checkpoint.left_out.items():
                left.setdefault(reason, names)
        return left

    def _all_files(self) -> list[File]:
        return list(dict.fromkeys(file for c in self.checkpoints for file in c.files))

    def _made(self, path: Path) -> Manifest:
        manifest = Manifest(
            streams=tuple(table.spec for table in self._tables.values()),
            scalars=self._scalars[2],
            optimizer=_common(self.checkpoints),
            metadata=self._metadata(),
        )
        try:
            check_manifest(manifest)
        except SchemaError as error:
            raise Damaged(
                f"{path}: {error}; rename it, and save the checkpoints again",
                path=path,
                rule=error.rule,
            ) from error
        return manifest

    def _metadata(self) -> dict[str, Any]:
        said: dict[str, Any] = {}
        if self.counted_in != "steps":
            said["steps_count"] = self.counted_in
        if self.tensors_left_out:
            said["tensors_left_out"] = {
                reason: list(names) for reason, names in self.tensors_left_out.items()
            }
        if self.left_out:
            said["files_left_out"] = {
                reason: list(names) for reason, names in self.left_out.items()
            }
        return said


def _of_lane(table: Table, lane: str) -> list[TensorSpec]:
    return [tensor for tensor in table.spec.tensors if tensor.dtype == lane]


def _common(checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """What the checkpoints that state something of their optimizer all state."""
    stated = [checkpoint.optimizer for checkpoint in checkpoints if checkpoint.optimizer]
    if not stated:
        return {}
    return {k: v for k, v in stated[0].items() if all(o.get(k) == v for o in stated)}


def _scalars(
    checkpoints: Sequence[Checkpoint],
) -> tuple[NDArray[np.int64], NDArray[np.float64], tuple[str, ...]]:
    """Steps, values and names of what is stated of single steps."""
    series: dict[str, dict[int, float]] = {}
    for checkpoint in checkpoints:
        for name, stated in checkpoint.scalars.items():
            series.setdefault(name, {}).update(stated)
    for checkpoint in checkpoints:
        rates = checkpoint.learning_rates
        for number, rate in enumerate(rates):
            name = _LEARNING_RATE if len(set(rates)) == 1 else f"{_LEARNING_RATE}/{number}"
            series.setdefault(name, {})[checkpoint.step or 0] = rate
    steps = sorted({step for pairs in series.values() for step in pairs})
    rows = {step: row for row, step in enumerate(steps)}
    bits = np.full((len(steps), len(series)), ABSENT_BITS, np.uint64)
    for column, pairs in enumerate(series.values()):
        for step, value in pairs.items():
            bits[rows[step], column] = np.float64(value).view(np.uint64)
    return np.array(steps, np.int64), bits.view(np.float64), tuple(series)


def _identity(listed: Sequence[File], files: Files, root: Path, ran: str) -> str:
    """A uuid from the files' names, sizes, and samples of their bytes; that of a copy is the same.

    The first and last 4 KiB and 4 KiB of the middle are sampled: the headers, the checksums that
    zip archives keep at their end, and some weights.

    Args:
        listed: The files.
        files: Reads them.
        root: The folder that names are relative to.
        ran: What tells apart what code built that the files name, if any was run.

    Returns:
        The uuid.
    """
    digest = hashlib.sha256(b"trajfile checkpoints\n")
    for file in listed:
        name = file.path.relative_to(root) if file.path.is_relative_to(root) else file.path.name
        digest.update(f"{name} {file.size}\n".encode("utf-8", "surrogateescape"))
        for start in sorted({0, max(0, file.size // 2), max(0, file.size - _SAMPLE)}):
            digest.update(files.bytes(file, start, min(_SAMPLE, file.size - start)))
    digest.update(ran.encode())
    return str(UUID(bytes=digest.digest()[:16], version=5))
