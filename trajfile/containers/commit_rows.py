"""What commits add, written to the arrays; and the records that will name it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Commit, Given, Rows
from trajfile.containers.checks import row_count, stored_scalar
from trajfile.containers.extents import extents
from trajfile.containers.record import Record, crc32c, keys_crc, scalars_crc
from trajfile.containers.scattered import Scattered, laid_out
from trajfile.containers.state import first_line, identity_of
from trajfile.containers.store import MANIFEST, SCALAR_STEP, SCALAR_VALUE, ArrayStore, stream_key
from trajfile.memory import Lease, Pool, copy_at_once
from trajfile.schema import ABSENT_BITS, Manifest, StreamSpec

#: Memory kept for the rows of several commits side by side; that of a fresh page takes longer.
_JOINT_BYTES = 8 * 2**20


class CommitRows:
    """Writes the rows of commits, which nobody sees before their records.

    Args:
        store: The arrays.
    """

    def __init__(self, store: ArrayStore):
        self._store = store
        self._joint = Pool(_JOINT_BYTES)

    def write(
        self, commits: Sequence[Commit], revised: Manifest, last: Record
    ) -> tuple[Record, NDArray[np.float64], list[str]]:
        """Write what several commits add, the first perhaps a revision of the manifest.

        Args:
            commits: At least one, with rows of the same streams.
            revised: The revision in force once they are there.
            last: The record that they follow.

        Returns:
            The last record, moved on by the revision; the scalars, a row for each commit that has
            any; and the keys of the arrays that changed.
        """
        last, touched = self._write_manifest(commits[0], revised, last)
        index = _index(revised)
        for name in commits[0].rows:
            added = [(commit.step, commit.rows[name]) for commit in commits]
            start = last.rows[index[name]]
            touched += self._write_rows(revised.by_name[name], start, added)
        values = self._write_scalars(commits, revised, last.scalar_rows)
        if len(values):
            touched += [SCALAR_STEP, SCALAR_VALUE]
        return last, values, touched

    def _write_manifest(
        self, commit: Commit, revised: Manifest, last: Record
    ) -> tuple[Record, list[str]]:
        """Append the revision and widen what it widens; before the first commit, count line 0."""
        record, line = last, b""
        if record.seq < 0:
            first = first_line(self._store)
            record = replace(record, manifest_bytes=len(first), manifest_crc=crc32c(first))
        if commit.manifest is None:
            return record, []
        line = revised.to_line(identity_of(self._store))
        self._store.save(MANIFEST, record.manifest_bytes, np.frombuffer(line, np.uint8))
        wanted = {SCALAR_VALUE: len(revised.scalars)} | {
            stream_key(stream.name, lane): columns
            for stream in revised.streams
            for lane, columns in stream.lanes.items()
        }
        wider = [key for key, columns in wanted.items() if columns > self._store.columns(key)]
        for key in wider:
            self._store.widen(key, wanted[key])
        record = replace(
            record,
            manifest_bytes=record.manifest_bytes + len(line),
            manifest_crc=crc32c(line, record.manifest_crc),
        )
        return record, [MANIFEST, *wider]

    def _write_rows(
        self, spec: StreamSpec, start: int, added: Sequence[tuple[int, Rows]]
    ) -> list[str]:
        keys = []
        counts = [row_count(rows) for _, rows in added]
        steps = np.repeat(np.array([step for step, _ in added], np.int64), counts)
        for lane in added[0][1].lanes:
            keys.append(stream_key(spec.name, lane))
            # Columns of tensors that are only declared so far are not worth a byte.
            runs = extents(spec, lane, slice(start, start + len(steps)))
            extent = max((run.columns for run in runs), default=0)
            lease = self._joint.lease()
            try:
                joined = _joined([rows.lanes[lane] for _, rows in added], extent, lease)
                self._store.write(keys[-1], start, joined)
            finally:
                lease.end()
        keys.append(stream_key(spec.name, "step"))
        self._store.save(keys[-1], start, steps)
        samples = [rows.samples.astype(np.int32) for _, rows in added if rows.samples is not None]
        if samples:
            keys.append(stream_key(spec.name, "sample"))
            self._store.save(keys[-1], start, np.concatenate(samples))
        return keys

    def _write_scalars(
        self, commits: Sequence[Commit], revised: Manifest, row: int
    ) -> NDArray[np.float64]:
        """Write the scalars of those commits that have any; a row each."""
        having = [commit for commit in commits if commit.scalars]
        bits = np.full((len(having), len(revised.scalars)), ABSENT_BITS, np.uint64)
        if not having:
            return bits.view(np.float64)
        columns = {name: column for column, name in enumerate(revised.scalars)}
        for number, commit in enumerate(having):
            for name, value in commit.scalars.items():
                bits[number, columns[name]] = stored_scalar(value).view(np.uint64)
        width = self._store.columns(SCALAR_VALUE)
        padded = np.full((len(having), width), ABSENT_BITS, np.uint64)
        padded[:, : bits.shape[1]] = bits
        steps = np.array([commit.step for commit in having], np.int64)
        self._store.save(SCALAR_STEP, row, steps)
        self._store.save(SCALAR_VALUE, row, padded.view(np.float64))
        return bits.view(np.float64)


def records_of(
    commits: Sequence[Commit], revised: Manifest, last: Record, values: NDArray[np.float64]
) -> list[Record]:
    """The records of commits that were written.

    Args:
        commits: The commits.
        revised: The revision in force.
        last: What `CommitRows.write` returned: the record that they follow,
        values: and the scalars.

    Returns:
        One each.
    """
    index = _index(revised)
    records: list[Record] = []
    for commit in commits:
        before = records[-1] if records else last
        row = before.scalar_rows - last.scalar_rows
        records.append(_record_of(commit, before, index, values[row : row + 1]))
    return records


def _index(manifest: Manifest) -> dict[str, int]:
    return {name: number for number, name in enumerate(manifest.by_name)}


def _record_of(
    commit: Commit, before: Record, index: dict[str, int], values: NDArray[np.float64]
) -> Record:
    """The record of a commit, whose scalars are `values`, after the record before."""
    rows, crcs = list(before.rows), list(before.keys_crcs)
    alone = int(commit.step).to_bytes(8, "little", signed=True)
    for name, added in commit.rows.items():
        number = index[name]
        if added.samples is None:
            crcs[number] = crc32c(alone, crcs[number])
        else:
            steps = np.full(row_count(added), commit.step, np.int64)
            crcs[number] = keys_crc(steps, added.samples, crcs[number])
        rows[number] += row_count(added)
    scalar_rows, crc = before.scalar_rows, before.scalars_crc
    if commit.scalars:
        steps = np.array([commit.step], np.int64)
        crc = scalars_crc(scalar_rows, steps, values, crc)
        scalar_rows += 1
    return Record(
        seq=before.seq + 1,
        step=commit.step,
        wall_ns=commit.wall_ns or time.time_ns(),
        manifest_bytes=before.manifest_bytes,
        scalar_rows=scalar_rows,
        rows=tuple(rows),
        manifest_crc=before.manifest_crc,
        scalars_crc=crc,
        keys_crcs=tuple(crcs),
    )


def _joined(some: Sequence[Given], columns: int, lease: Lease) -> Given:
    """The first columns of several arrays, one below the other."""
    if len(some) == 1 and isinstance(some[0], Scattered):
        return some[0].first(columns)
    arrays = [laid_out(rows) for rows in some]
    if len(arrays) == 1:
        return np.ascontiguousarray(arrays[0][:, :columns])
    joined = lease.rows(sum(len(array) for array in arrays), columns, arrays[0].dtype)
    into, start = joined.view(np.uint8).reshape(-1).data, 0
    for array in arrays:
        part = np.ascontiguousarray(array[:, :columns])
        copy_at_once(part, into[start : start + part.nbytes])
        start += part.nbytes
    return joined
