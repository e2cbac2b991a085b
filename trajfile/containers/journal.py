"""The commit protocol, once for every store: rows first, then one record that names them.

A reader sees what the last valid record names and nothing else. A kill at any moment leaves either
that record or the one before it in force.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Commit
from trajfile.containers.checks import check_commit
from trajfile.containers.commit_rows import CommitRows, records_of
from trajfile.containers.committed import Committed
from trajfile.containers.record import Record
from trajfile.containers.rewinding import taken_back
from trajfile.containers.state import damaged, first_line, load_state
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
from trajfile.errors import TrajfileError, UsageError
from trajfile.schema import Manifest, Rewind


class Journal(Committed):
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
        super().__init__(store)
        self._power = power
        self._adding = CommitRows(store)
        self._open_for_append = writable
        self._uncertain = False  # whether the store may hold part of an append that failed
        if writable:
            if store.fences:
                self._fence()
            dropped = self._discard()
            store.begin()
            if store.left_by_a_kill:
                self._report(dropped)

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
            record, encoded = self._write(together, revised)
        except BaseException:
            self._fail()
            raise
        self._take(revised, record, encoded)
        self._commits.extend(range(record.seq + 1 - len(encoded), record.seq + 1))
        return len(encoded)

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
        streams = len(self._manifest.streams)
        before = Record.decode(self._table[kept[-1]]) if kept else Record.empty(streams)
        revised, line, record = taken_back(
            self._store, self._manifest, self._record, before, step, int(steps[-1])
        )
        try:
            self._store.save(MANIFEST, self._record.manifest_bytes, np.frombuffer(line, np.uint8))
            self._hand_over([MANIFEST])
            self._store.save(COMMITS, record.seq, record.encode())
            self._hand_over([COMMITS])
        except BaseException:
            self._fail()
            raise
        self._take(revised, record, record.encode())
        self._commits = kept
        self._discard()
        return revised.lineage[-1]

    def close(self) -> None:
        """Release the files; after appending, leave them cleanly closed. Once; then do nothing."""
        self._open_for_append = False
        if not self._closed:
            self._closed = True
            if self._tiles is not None:
                self._tiles.forget()
            self._store.close()

    def _write(
        self, commits: Sequence[Commit], revised: Manifest
    ) -> tuple[Record, NDArray[np.uint64]]:
        """Write the rows of all commits, then all of their records.

        Returns:
            The last record, and all of them as they lie in the table.
        """
        last, values, touched = self._adding.write(commits, revised, self._record)
        self._hand_over(touched)
        records = records_of(commits, revised, last, values)
        encoded = np.concatenate([record.encode() for record in records])
        self._store.save(COMMITS, records[0].seq, encoded)
        self._hand_over([COMMITS])
        return records[-1], encoded

    def _hand_over(self, keys: list[str]) -> None:
        """Give arrays to the operating system and, for ``power``, force them to the disk."""
        self._store.flush(keys)
        if self._power:
            self._store.sync(keys)

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

    def _take(self, manifest: Manifest, record: Record, encoded: NDArray[np.uint64]) -> None:
        """Go on from a record that has been handed over, the last of some."""
        self._manifest, self._record = manifest, record
        stop = record.seq + 1
        # The table doubles; `commits` shows own appends too.
        if stop > len(self._table):
            grown = np.zeros((2 * record.seq + 16, self._table.shape[1]), np.uint64)
            grown[: len(self._table)] = self._table
            self._table = grown
        self._table[stop - len(encoded) : stop] = encoded
