"""The commit protocol, once for every store: rows first, then one record that names them.

A reader sees what the last valid record names and nothing else. A kill at any moment leaves either
that record or the one before it in force.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Commit, Rows
from trajfile.containers.checks import check_commit, row_count, stored_scalar
from trajfile.containers.extents import extents
from trajfile.containers.plausible import check_chunks
from trajfile.containers.record import Record, crc32c, keys_crc, scalars_crc
from trajfile.containers.state import first_line, identity_of, load_state, mismatch
from trajfile.containers.store import (
    COMMITS,
    MANIFEST,
    SCALAR_STEP,
    SCALAR_VALUE,
    ArrayStore,
    layout,
    stream_key,
)
from trajfile.dtypes import bits_of
from trajfile.errors import ResourceError, UsageError
from trajfile.schema import ABSENT_BITS, Manifest, StreamSpec


class Journal:
    """A container on a store.

    Opened for reading it shows the trajectory as of opening; what others commit afterwards is
    seen on opening again.

    Args:
        store: The arrays; begun, if it is to be appended to.
        writable: Whether to append.
        power: Whether each commit is forced to the disk.
    """

    def __init__(self, store: ArrayStore, *, writable: bool, power: bool):
        self.kind = store.kind
        self.path = store.path
        self.uuid = store.uuid
        self.format_version = store.format_version
        self.archive = store.archive
        self._store = store
        self._power = power
        self._open_for_append = writable
        self._table, self._manifest, self._record = load_state(store)
        store.expect(layout(self._manifest))
        check_chunks(store, self._manifest, self._record)
        if writable:
            self._drop_uncommitted()

    def manifest(self) -> Manifest:
        """The revision in force at the last valid commit."""
        return self._manifest

    def revisions(self) -> list[bytes]:
        """Every committed revision of the manifest as its line, oldest first, unparsed."""
        if self._record.seq < 0:
            return [first_line(self._store)]
        lines = self._store.load(MANIFEST, self._record.manifest_bytes).tobytes()
        return [line + b"\n" for line in lines.split(b"\n")[:-1]]

    def commits(self) -> NDArray[np.int64]:
        """Shape (commits, 3): sequence number, step and wall-clock time in ns since 1970."""
        return self._table[: self._record.seq + 1, :3].astype(np.int64)

    def committed_rows(self, stream: str) -> int:
        """Number of committed rows of a stream."""
        return self._record.rows[self._index(stream)]

    def keys(self, stream: str) -> tuple[NDArray[np.int64], NDArray[np.int32] | None]:
        """The step of each committed row and, for gradient samples, its sample index."""
        rows, key = self.committed_rows(stream), stream_key(stream, "step")
        steps = self._store.load(key, rows).astype(np.int64)
        samples = None
        if self._manifest.by_name[stream].sampled:
            samples = self._store.load(stream_key(stream, "sample"), rows).astype(np.int32)
        if keys_crc(steps, samples) != self._record.keys_crcs[self._index(stream)]:
            raise mismatch(self._store, key)
        return steps, samples

    def scalars(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps, shape (rows,), and values, shape (rows, names); absent ones `ABSENT_BITS`."""
        rows = self._record.scalar_rows
        steps = self._store.load(SCALAR_STEP, rows).astype(np.int64)
        stored = self._store.load(SCALAR_VALUE, rows)
        values = np.ascontiguousarray(stored[:, : len(self._manifest.scalars)])
        floats: NDArray[np.float64] = values.view(np.float64)
        if scalars_crc(0, steps, floats) != self._record.scalars_crc:
            raise mismatch(self._store, SCALAR_VALUE)
        return steps, floats

    def read(self, stream: str, lane: str, rows: slice, columns: slice, out: Array) -> None:
        """Read a block of committed rows, bit-exact and with checksums verified.

        Columns of a tensor in rows before its ``first_row`` become zero bits; they need not
        exist on disk.

        Args:
            stream: The stream.
            lane: The lane, named by its dtype.
            rows: Contiguous rows within the committed ones.
            columns: Contiguous columns within the lane's.
            out: C-contiguous, shape (rows, columns), in the lane's dtype.

        Raises:
            UsageError: If the block is not within the committed rows and the lane's columns.
        """
        spec = self._manifest.by_name[stream]
        inside = (
            0 <= rows.start <= rows.stop <= self.committed_rows(stream)
            and 0 <= columns.start <= columns.stop <= spec.lanes[lane]
            and out.shape == (rows.stop - rows.start, columns.stop - columns.start)
        )
        if not inside:
            raise UsageError(
                f"{stream}/{lane} holds {self.committed_rows(stream)} rows of "
                f"{spec.lanes[lane]} columns: asked for rows {rows.start}:{rows.stop} and "
                f"columns {columns.start}:{columns.stop} into an array of shape {out.shape}"
            )
        bits = bits_of(out)
        for first, last, extent in extents(spec, lane, rows):
            part = bits[first - rows.start : last - rows.start]
            stop = max(columns.start, min(columns.stop, extent))
            known = slice(columns.start, stop)
            part[:, stop - columns.start :] = 0
            if stop == columns.start:
                continue
            target = part
            if stop < columns.stop:
                target = np.empty((last - first, stop - columns.start), part.dtype)
            self._store.read(stream_key(stream, lane), slice(first, last), known, target)
            if target is not part:
                part[:, : stop - columns.start] = target

    def chunk_columns(self, stream: str, lane: str) -> int:
        """Width in columns of the unit in which the lane is stored and verified."""
        return self._store.chunk_columns(stream_key(stream, lane))

    def stored_bytes(self) -> int:
        """Size on disk in bytes."""
        return self._store.stored_bytes()

    def append(self, commit: Commit) -> None:
        """Write the rows, then make them visible by one commit record.

        Args:
            commit: What to append.

        Raises:
            UsageError: If the container was opened for reading or is closed.
            ResourceError: If the disk is full. The committed steps stay readable; the container
                takes no more.
        """
        if not self._open_for_append:
            raise UsageError(f"{self.path} is not open for appending")
        revised = check_commit(self._manifest, commit)
        try:
            record = self._write(commit, revised)
        except ResourceError:
            self._open_for_append = False
            raise
        self._manifest, self._record = revised, record
        self._remember(record)

    def close(self) -> None:
        """Release the files; after appending, leave them cleanly closed."""
        self._open_for_append = False
        self._store.close()

    def _write(self, commit: Commit, revised: Manifest) -> Record:
        store, touched = self._store, [MANIFEST] if commit.manifest is not None else []
        record = self._write_manifest(commit, revised)
        rows, crcs = list(record.rows), list(record.keys_crcs)
        for name, added in commit.rows.items():
            index = self._index(name)
            touched += self._write_rows(revised.by_name[name], rows[index], added, commit.step)
            steps = np.full(row_count(added), commit.step, np.int64)
            crcs[index] = keys_crc(steps, added.samples, crcs[index])
            rows[index] += row_count(added)
        if commit.scalars:
            touched += [SCALAR_STEP, SCALAR_VALUE]
            values = self._write_scalars(commit, revised, record.scalar_rows)
            steps = np.array([commit.step], np.int64)
            crc = scalars_crc(record.scalar_rows, steps, values, record.scalars_crc)
            record = replace(record, scalar_rows=record.scalar_rows + 1, scalars_crc=crc)
        store.flush(touched)
        if self._power:
            store.sync(touched)
        record = replace(
            record,
            seq=record.seq + 1,
            step=commit.step,
            wall_ns=commit.wall_ns or time.time_ns(),
            rows=tuple(rows),
            keys_crcs=tuple(crcs),
        )
        store.save(COMMITS, record.seq, record.encode())
        store.flush([COMMITS])
        if self._power:
            store.sync([COMMITS])
        return record

    def _write_manifest(self, commit: Commit, revised: Manifest) -> Record:
        """Append the revision and widen what it widens; before the first commit, count line 0."""
        record, line = self._record, b""
        if record.seq < 0:
            first = first_line(self._store)
            record = replace(record, manifest_bytes=len(first), manifest_crc=crc32c(first))
        if commit.manifest is None:
            return record
        line = revised.to_line(identity_of(self._store))
        self._store.save(MANIFEST, record.manifest_bytes, np.frombuffer(line, np.uint8))
        self._store.widen(SCALAR_VALUE, len(revised.scalars))
        for stream in revised.streams:
            for lane, columns in stream.lanes.items():
                self._store.widen(stream_key(stream.name, lane), columns)
        return replace(
            record,
            manifest_bytes=record.manifest_bytes + len(line),
            manifest_crc=crc32c(line, record.manifest_crc),
        )

    def _write_rows(self, spec: StreamSpec, start: int, rows: Rows, step: int) -> list[str]:
        keys = []
        for lane, array in rows.lanes.items():
            keys.append(stream_key(spec.name, lane))
            # Columns of tensors that are only declared so far are not worth a byte.
            runs = extents(spec, lane, slice(start, start + row_count(rows)))
            extent = max((run.columns for run in runs), default=0)
            self._store.write(keys[-1], start, np.ascontiguousarray(array[:, :extent]))
        keys.append(stream_key(spec.name, "step"))
        self._store.save(keys[-1], start, np.full(row_count(rows), step, np.int64))
        if rows.samples is not None:
            keys.append(stream_key(spec.name, "sample"))
            self._store.save(keys[-1], start, rows.samples.astype(np.int32))
        return keys

    def _write_scalars(self, commit: Commit, revised: Manifest, row: int) -> NDArray[np.float64]:
        bits = np.full((1, len(revised.scalars)), ABSENT_BITS, np.uint64)
        for name, value in commit.scalars.items():
            bits[0, revised.scalars.index(name)] = stored_scalar(value).view(np.uint64)
        values = bits.view(np.float64)
        width = self._store.columns(SCALAR_VALUE)
        padded = np.full((1, width), ABSENT_BITS, np.uint64)
        padded[:, : bits.shape[1]] = bits
        self._store.save(SCALAR_STEP, row, np.array([commit.step], np.int64))
        self._store.save(SCALAR_VALUE, row, padded.view(np.float64))
        return values

    def _drop_uncommitted(self) -> None:
        """Forget what a kill left behind the last commit, so that appending starts clean."""
        first = self._record.seq < 0
        used = len(first_line(self._store)) if first else self._record.manifest_bytes
        self._store.truncate(MANIFEST, used)
        self._store.truncate(COMMITS, self._record.seq + 1)
        self._store.truncate(SCALAR_STEP, self._record.scalar_rows)
        self._store.truncate(SCALAR_VALUE, self._record.scalar_rows)
        for stream, rows in zip(self._manifest.streams, self._record.rows, strict=True):
            names = ["step", *(["sample"] if stream.sampled else []), *stream.lanes]
            for name in names:
                self._store.truncate(stream_key(stream.name, name), rows)
        self._store.begin()

    def _remember(self, record: Record) -> None:
        """Keep the record in a table that doubles, so that `commits` shows own appends too."""
        if record.seq >= len(self._table):
            grown = np.zeros((2 * record.seq + 16, self._table.shape[1]), np.uint64)
            grown[: len(self._table)] = self._table
            self._table = grown
        self._table[record.seq] = record.encode()[0]

    def _index(self, stream: str) -> int:
        return list(self._manifest.by_name).index(stream)
