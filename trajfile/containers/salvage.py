"""Opening a damaged trajectory for what can be proven of it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajfile.containers import Compression
from trajfile.containers.journal import Journal
from trajfile.containers.plausible import impossible_lanes
from trajfile.containers.proof import (
    Notes,
    ProvenKeys,
    prove_keys,
    prove_manifest,
    prove_records,
    prove_scalars,
)
from trajfile.containers.record import Record
from trajfile.containers.salvage_store import Salvageable, open_store
from trajfile.containers.state import damaged
from trajfile.containers.store import (
    COMMITS,
    MANIFEST,
    SCALAR_STEP,
    SCALAR_VALUE,
    stream_key,
)
from trajfile.containers.tiles import Tiles
from trajfile.errors import Damaged, FormatError
from trajfile.schema import ABSENT_BITS, Manifest

#: Rows that a truncated file may have lost and that are told one by one, however small it is.
_FEW_ROWS = 2**20


class Salvaged(Journal):
    """A damaged trajectory as a container of what is proven of it.

    It counts the committed rows of the last proven record. Reading a damaged row raises as ever;
    the keys of a row that is not proven are -1.

    Args:
        path: The file or folder.

    Attributes:
        notes: What was found.
        records: The proven commit records.
        lost_commits: How many commits after the last proven one are damaged.
        scalars_proven: Which of the committed rows of scalars are proven.
        lanes_lost: Lanes that cannot be read at all, as (stream, lane), and why.

    Raises:
        FormatError: If nothing of it is proven.
    """

    def __init__(self, path: Path):
        self.notes = Notes()
        store = open_store(path, self.notes)
        self._store, self._power, self._open_for_append = store, False, False
        try:
            self._prove(store)
        except BaseException:
            store.close()
            raise

    def _prove(self, store: Salvageable) -> None:
        self.kind, self.path, self.uuid = store.kind, store.path, store.uuid
        self.format_version, self.archive = store.format_version, store.archive
        self._tiles = Tiles(store) if store.archive else None
        table, known = store.salvage(COMMITS)
        self.records, self.lost_commits = prove_records(table.astype(np.uint64), known, self.notes)
        if not self.records and not table.any():
            raise self._hopeless(COMMITS, "nothing has been committed")
        if not self.records:
            raise self._hopeless(COMMITS, "no commit record is whole, so nothing says what is here")
        self._record = last = self.records[-1]
        if self.lost_commits:
            self.notes.lost.append(
                f"{self.lost_commits} commits after step {last.step}, whose records are damaged"
            )
        data, _ = store.salvage(MANIFEST)
        proven = prove_manifest(data.tobytes(), self.records, len(last.rows), self.notes)
        if proven is None:
            raise self._hopeless(MANIFEST, "no revision of it is proven")
        self._manifest: Manifest = proven.manifest
        identity = proven.identity
        if identity is not None:
            if identity.uuid != self.uuid or identity.format_version != self.format_version:
                self.notes.mended.append("uuid and format version, from the manifest")
            self.uuid, self.format_version = identity.uuid, identity.format_version
        elif store.anonymous is not None:
            raise store.anonymous
        self.lanes_lost = store.settle(proven.first, proven.manifest)
        for lane in list(impossible_lanes(store, proven.manifest, self.lanes_lost)):
            key = stream_key(*lane)
            what = "is wider than all that is stored"
            self.lanes_lost[lane] = damaged(store, what, key, "SUM-002")
        most = max(last.scalar_rows, *last.rows)
        if most > max(store.stored_bytes(), _FEW_ROWS):
            raise self._hopeless(COMMITS, f"{most} rows are committed, far too many for its size")
        self._keys = {
            stream: self._proven_keys(stream, number)
            for number, stream in enumerate(self._manifest.by_name)
        }
        steps, _ = self._table_or_nothing(SCALAR_STEP, "<i8")
        values, _ = self._table_or_nothing(SCALAR_VALUE, "<f8", (len(self._manifest.scalars),))
        self._steps, self._values, self.scalars_proven = prove_scalars(
            steps.astype(np.int64), values.astype("<f8"), self.records, self.notes
        )
        self._table = np.concatenate([record.encode() for record in self.records])

    def keys(self, stream: str) -> tuple[NDArray[np.int64], NDArray[np.int32] | None]:
        """The step and sample of each committed row; -1 where they are not proven."""
        return self._keys[stream].steps, self._keys[stream].samples

    def proven(self, stream: str) -> NDArray[np.bool_]:
        """Which committed rows have proven keys."""
        return self._keys[stream].proven

    def scalars(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps and values of all committed rows; see `scalars_proven`."""
        names = len(self._manifest.scalars)
        values = np.full((len(self._steps), names), ABSENT_BITS, np.uint64).view(np.float64)
        width = min(names, self._values.shape[1])
        values[:, :width] = self._values[:, :width]
        return self._steps, values

    def commits(self) -> NDArray[np.int64]:
        """Sequence number, step and time of each proven commit."""
        return self._table[:, :3].astype(np.int64)

    @property
    def compression(self) -> Compression:
        """How its lanes are compressed."""
        for stream in self._manifest.streams:
            for lane in stream.lanes:
                if (stream.name, lane) not in self.lanes_lost:
                    found = self._store.compression(stream_key(stream.name, lane))
                    return "zstd" if found == "zstd" else "gzip" if found == "gzip" else None
        return None

    def _proven_keys(self, stream: str, number: int) -> ProvenKeys:
        steps, _ = self._table_or_nothing(stream_key(stream, "step"), "<i8")
        samples: NDArray[np.int32] | None = None
        if self._manifest.by_name[stream].sampled:
            stored, _ = self._table_or_nothing(stream_key(stream, "sample"), "<i4")
            samples = stored.astype(np.int32)
        return prove_keys(
            (steps.astype(np.int64), samples), self.records, number, stream, self.notes
        )

    def _table_or_nothing(
        self, key: str, dtype: str, columns: tuple[int, ...] = ()
    ) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        with contextlib.suppress(FormatError):
            found, known = self._store.salvage(key)
            if found.ndim == 1 + len(columns):
                return found, known
        return np.zeros((0, *columns), dtype), np.zeros(0, np.bool_)

    def _hopeless(self, key: str, what: str) -> Damaged:
        return Damaged(
            f"{self.path}, /{key}: {what}; nothing can be saved: restore it from a copy",
            path=self.path,
            location=f"/{key}",
            rule="SUM-001" if key == MANIFEST else "COM-001",
        )


def enclosing(records: list[Record]) -> list[tuple[Record, Record]]:
    """Each record with the one before it, the first with the state before any commit."""
    return list(zip([Record.empty(len(records[0].rows)), *records[:-1]], records, strict=True))
