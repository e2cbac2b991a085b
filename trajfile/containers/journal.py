"""The commit protocol, once for every store: rows first, then one record that names them.

A reader sees what the last valid record names and nothing else. A kill at any moment leaves either
that record or the one before it in force.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Commit, Rows
from trajfile.containers.checks import check_commit, row_count, stored_scalar
from trajfile.containers.extents import extents
from trajfile.containers.plausible import check_chunks
from trajfile.containers.record import Record, crc32c, keys_crc, scalars_crc
from trajfile.containers.state import (
    damaged,
    first_line,
    identity_of,
    load_state,
    mismatch,
    revision_at,
)
from trajfile.containers.store import (
    COMMIT_ROWS,
    COMMITS,
    MANIFEST,
    SCALAR_STEP,
    SCALAR_VALUE,
    ArrayStore,
    layout,
    stream_key,
)
from trajfile.containers.tiles import Tiles
from trajfile.dtypes import bits_of
from trajfile.errors import FormatError, TrajfileError, UsageError
from trajfile.memory import Lease, Pool
from trajfile.schema import ABSENT_BITS, Manifest, Rewind, StreamSpec

#: Memory kept for the rows of several commits side by side; that of a fresh page takes longer.
_JOINT_BYTES = 8 * 2**20


class Journal:
    """A container on a store.

    Opened for reading it shows the trajectory as of opening; what others commit afterwards is
    seen on opening again.

    Args:
        store: The arrays; begun, if it is to be appended to.
        writable: Whether to append.
        power: Whether each commit is forced to the disk.
    """

    _closed = False

    def __init__(self, store: ArrayStore, *, writable: bool, power: bool):
        self.kind = store.kind
        self.path = store.path
        self.uuid = store.uuid
        self.format_version = store.format_version
        self.archive = store.archive
        self._store = store
        self._power = power
        self._tiles = Tiles(store) if self.archive else None
        self._joint = Pool(_JOINT_BYTES)
        self._open_for_append = writable
        self._uncertain = False  # whether the store may hold part of an append that failed
        self._table, self._commits, self._manifest, self._record = load_state(store)
        store.expect(layout(self._manifest))
        check_chunks(store, self._manifest, self._record)
        if writable:
            if store.fences:
                self._fence()
            dropped = self._discard()
            store.begin()
            if store.left_by_a_kill:
                self._report(dropped)

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
        """Shape (commits, 3): number from 0, step and wall-clock time in ns since 1970."""
        found: NDArray[np.int64] = self._table[self._commits, :3].astype(np.int64)
        found[:, 0] = np.arange(len(found))  # without those that a rewind has taken back
        return found

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
            where = stream_key(stream, lane), slice(first, last), known, target
            if self._tiles is not None:
                self._tiles.read(*where, self.committed_rows(stream))
            else:
                self._store.read(*where)
            if target is not part:
                part[:, : stop - columns.start] = target

    def chunk_columns(self, stream: str, lane: str) -> int:
        """Width in columns of the unit in which the lane is stored and verified."""
        return self._store.chunk_columns(stream_key(stream, lane))

    def damaged_lanes(self) -> Iterator[FormatError]:
        """Damage of where chunks of lanes lie, which reading shows in some orders only."""
        return self._store.damaged_lanes()

    def stored_bytes(self) -> int:
        """Size on disk in bytes."""
        return self._store.stored_bytes()

    def append(self, commit: Commit) -> None:
        """Write the rows, then make them visible by one commit record.

        Args:
            commit: What to append.

        Raises:
            UsageError: If the container was opened for reading or is closed.
            ResourceError: If the system refuses to write. The committed steps stay readable, and
                the next append starts from them.
        """
        self.append_some([commit])

    def append_some(self, commits: Sequence[Commit]) -> int:
        """Append the first few of some commits together, as one after another but in fewer writes.

        All their rows are handed over before the first of their records, and their records lie
        in one chunk of the table, which is written front to back: whatever a kill leaves is what
        it could have left of appending one by one.

        Args:
            commits: At least one.

        Returns:
            How many were appended.

        Raises:
            UsageError: If the container was opened for reading or is closed.
            ResourceError: If the system refuses to write. The committed steps stay readable, and
                the next append starts from them.
        """
        self._prepare()
        together = [commits[0]]
        revised = check_commit(self._manifest, commits[0])
        alike = commits[0].rows.keys()
        room = COMMIT_ROWS - (self._record.seq + 1) % COMMIT_ROWS
        if self._power:
            room = 1  # a loss of power may keep a later page of a chunk and lose an earlier one
        for commit in commits[1:room]:
            # A revision may widen arrays, which the rows before it are not to see.
            if commit.manifest is not None or commit.rows.keys() != alike:
                break
            try:
                check_commit(revised, commit)
            except TrajfileError:
                break  # raised when its turn comes, after those before it are there
            together.append(commit)
        try:
            records = self._write(together, revised)
        except BaseException:
            self._fail()
            raise
        for record in records:
            self._take(revised, record)
            self._commits.append(record.seq)
        return len(records)

    def rewind(self, step: int) -> Rewind | None:
        """Take back every commit at and after a step, by one record.

        Only that record and a revision of the manifest are written; what is taken back lies where
        it lay until later appends write over it. A kill leaves all of it in force or none.

        Args:
            step: The step.

        Returns:
            What was taken back, as it now stands in the manifest; None if there was nothing.

        Raises:
            UsageError: If the container was opened for reading or is closed.
            ResourceError: If the system refuses to write.
        """
        self._prepare()
        steps = self.commits()[:, 1]
        if not (steps >= step).any():
            return None
        kept = self._commits[: int(np.argmax(steps >= step))]
        streams = self._manifest.streams
        before = Record.decode(self._table[kept[-1]]) if kept else Record.empty(len(streams))
        gone = {
            stream.name: now - then
            for stream, now, then in zip(streams, self._record.rows, before.rows, strict=True)
        }
        gone["scalars"] = self._record.scalar_rows - before.scalar_rows
        taken = Rewind(step, int(steps[-1]), time.time_ns(), {k: n for k, n in gone.items() if n})
        tables = revision_at(self._store, before.manifest_bytes)
        revised = msgspec.structs.replace(
            self._manifest,
            streams=tables.streams,
            scalars=tables.scalars,
            lineage=(*self._manifest.lineage, taken),
        )
        line = revised.to_line(identity_of(self._store))
        record = replace(
            before,
            seq=self._record.seq + 1,
            step=~step,
            wall_ns=taken.wall_ns,
            manifest_bytes=self._record.manifest_bytes + len(line),
            manifest_crc=crc32c(line, self._record.manifest_crc),
        )
        try:
            self._store.save(MANIFEST, self._record.manifest_bytes, np.frombuffer(line, np.uint8))
            self._hand_over([MANIFEST])
            self._store.save(COMMITS, record.seq, record.encode())
            self._hand_over([COMMITS])
        except BaseException:
            self._fail()
            raise
        self._take(revised, record)
        self._commits = kept
        self._discard()
        return taken

    def close(self) -> None:
        """Release the files; after appending, leave them cleanly closed. Once; then do nothing."""
        self._open_for_append = False
        if not self._closed:
            self._closed = True
            if self._tiles is not None:
                self._tiles.forget()
            self._store.close()

    def _write(self, commits: Sequence[Commit], revised: Manifest) -> list[Record]:
        """Write the rows of all commits, then all of their records."""
        first, touched = self._write_manifest(commits[0], revised)
        for name in commits[0].rows:
            added = [(commit.step, commit.rows[name]) for commit in commits]
            start = first.rows[self._index(name)]
            touched += self._write_rows(revised.by_name[name], start, added)
        values = self._write_scalars(commits, revised, first.scalar_rows)
        if len(values):
            touched += [SCALAR_STEP, SCALAR_VALUE]
        self._hand_over(touched)
        records = []
        record = first
        for commit in commits:
            record = self._record_of(commit, record, values)
            records.append(record)
        encoded = np.concatenate([record.encode() for record in records])
        self._store.save(COMMITS, records[0].seq, encoded)
        self._hand_over([COMMITS])
        return records

    def _record_of(self, commit: Commit, before: Record, values: NDArray[np.float64]) -> Record:
        """The record of a commit; `values` are the scalars of all that are written with it."""
        rows, crcs = list(before.rows), list(before.keys_crcs)
        for name, added in commit.rows.items():
            index = self._index(name)
            steps = np.full(row_count(added), commit.step, np.int64)
            crcs[index] = keys_crc(steps, added.samples, crcs[index])
            rows[index] += row_count(added)
        scalar_rows, crc = before.scalar_rows, before.scalars_crc
        if commit.scalars:
            row = scalar_rows - self._record.scalar_rows
            steps = np.array([commit.step], np.int64)
            crc = scalars_crc(scalar_rows, steps, values[row : row + 1], crc)
            scalar_rows += 1
        return replace(
            before,
            seq=before.seq + 1,
            step=commit.step,
            wall_ns=commit.wall_ns or time.time_ns(),
            scalar_rows=scalar_rows,
            scalars_crc=crc,
            rows=tuple(rows),
            keys_crcs=tuple(crcs),
        )

    def _hand_over(self, keys: list[str]) -> None:
        """Give arrays to the operating system and, for ``power``, force them to the disk."""
        self._store.flush(keys)
        if self._power:
            self._store.sync(keys)

    def _write_manifest(self, commit: Commit, revised: Manifest) -> tuple[Record, list[str]]:
        """Append the revision and widen what it widens; before the first commit, count line 0."""
        record, line = self._record, b""
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
            joined = _joined([rows.lanes[lane] for _, rows in added], extent, lease)
            self._store.write(keys[-1], start, joined)
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

    def _prepare(self) -> None:
        """Be ready to append; after an append that failed, start from what is on the disk."""
        if not self._open_for_append:
            raise UsageError(f"{self.path} is not open for appending")
        if not self._uncertain:
            return
        self._store.revive()
        table = load_state(self._store).table
        self._store.expect(layout(self._manifest))
        last = self._record.seq
        if len(table) <= last or (last >= 0 and (table[last] != self._record.encode()[0]).any()):
            raise damaged(self._store, "committed steps have vanished", COMMITS, "COM-002")
        if len(table) > last + 1:
            # Records got there although writing them failed. They must not speak for rows that
            # are about to be written over.
            # The last first: a kill in between must leave no valid one behind one that is not.
            for seq in reversed(range(last + 1, len(table))):
                unmade = table[seq : seq + 1].copy()
                unmade[:, -1] = 0  # this alone: what is left of a kill is told by it
                self._store.save(COMMITS, seq, unmade)
                self._hand_over([COMMITS])
        self._discard()
        self._uncertain = False

    def _fence(self) -> None:
        """Write a record without its checksum, as a kill leaves one, where the next will stand.

        In a store an earlier writer may only be asleep. Each writer commits on the condition that
        the object it commits to is as it left it, which it is not from here on.
        """
        seq = self._record.seq + 1
        row = replace(self._record, seq=seq, wall_ns=time.time_ns()).encode()
        row[:, -1] = 0
        self._store.save(COMMITS, seq, row)
        self._store.flush([COMMITS])

    def _fail(self) -> None:
        self._uncertain = True
        self._store.let_go()

    def _discard(self) -> dict[str, int]:
        """Take what lies behind the last commit for free space.

        Returns:
            How many rows of each stream there were.
        """
        record, store = self._record, self._store
        used = record.manifest_bytes if record.seq >= 0 else len(first_line(store))
        rows = {
            MANIFEST: used,
            COMMITS: record.seq + 1,
            SCALAR_STEP: record.scalar_rows,
            SCALAR_VALUE: record.scalar_rows,
        }
        for key, count in rows.items():
            store.discard(key, count)
        dropped = {}
        for stream, count in zip(self._manifest.streams, record.rows, strict=True):
            names = ["step", *(["sample"] if stream.sampled else []), *stream.lanes]
            found = [store.discard(stream_key(stream.name, name), count) for name in names]
            dropped[stream.name] = max(found)
        return dropped

    def _report(self, dropped: dict[str, int]) -> None:
        """Say that a killed writer's trajectory is taken up again, and what was dropped."""
        rows = [f"{n} row{'s' * (n > 1)} of {name}" for name, n in dropped.items() if n]
        last = f"step {self.commits()[-1, 1]}" if self._commits else "nothing"
        import logging

        logging.getLogger("trajfile").warning(
            "%s: its last writer did not close it; going on after %s, the last of %d commits; "
            "dropped beyond it: %s",
            *(self.path, last, len(self._commits), ", ".join(rows) or "nothing"),
        )

    def _take(self, manifest: Manifest, record: Record) -> None:
        """Go on from a record that has been handed over."""
        self._manifest, self._record = manifest, record
        self._remember(record)

    def _remember(self, record: Record) -> None:
        """Keep the record in a table that doubles, so that `commits` shows own appends too."""
        if record.seq >= len(self._table):
            grown = np.zeros((2 * record.seq + 16, self._table.shape[1]), np.uint64)
            grown[: len(self._table)] = self._table
            self._table = grown
        self._table[record.seq] = record.encode()[0]

    def _index(self, stream: str) -> int:
        return list(self._manifest.by_name).index(stream)


def _joined(arrays: Sequence[Array], columns: int, lease: Lease) -> Array:
    """The first columns of several arrays, one below the other."""
    if len(arrays) == 1:
        return np.ascontiguousarray(arrays[0][:, :columns])
    joined = lease.rows(sum(len(array) for array in arrays), columns, arrays[0].dtype)
    return np.concatenate([array[:, :columns] for array in arrays], out=joined)
