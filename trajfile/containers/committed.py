"""What is committed of a trajectory, in whatever store it lies: read as of its last record."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, check_block
from trajfile.containers.extents import extents
from trajfile.containers.plausible import check_chunks
from trajfile.containers.record import keys_crc, scalars_crc
from trajfile.containers.state import first_line, load_state, mismatch
from trajfile.containers.store import (
    MANIFEST,
    SCALAR_STEP,
    SCALAR_VALUE,
    ArrayStore,
    layout,
    stream_key,
)
from trajfile.containers.stored import Stored
from trajfile.containers.tiles import Tiles
from trajfile.dtypes import ITEM_SIZES, bits_of
from trajfile.errors import FormatError
from trajfile.schema import Manifest


class Committed:
    """The committed rows of a trajectory, as of opening.

    Args:
        store: The arrays.
    """

    def __init__(self, store: ArrayStore):
        self.kind = store.kind
        self.path = store.path
        self.uuid = store.uuid
        self.format_version = store.format_version
        self.archive = store.archive
        self._store = store
        self._tiles = Tiles(store) if self.archive else None
        self._table, self._commits, self._manifest, self._record = load_state(store)
        store.expect(layout(self._manifest))
        check_chunks(store, self._manifest, self._record)

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
        shape = self.committed_rows(stream), spec.lanes[lane]
        check_block(f"{stream}/{lane}", shape, rows, columns, out)
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

    def stored(
        self, stream: str, lane: str, rows: NDArray[np.int64], columns: slice
    ) -> Stored | None:
        """Where the chunks of a block lie in a file, to read it piece by piece.

        Args:
            stream: The stream.
            lane: The lane, named by its dtype.
            rows: Committed rows, increasing.
            columns: Contiguous columns within the lane's.

        Returns:
            None where that is not possible; `read` reads the block, or says what is wrong.
        """
        if self.archive or not len(rows) or columns.start >= columns.stop:
            return None
        first, last = int(rows[0]), int(rows[-1])
        [extent] = extents(self._manifest.by_name[stream], lane, slice(first, first + 1))
        if extent.columns < columns.stop or last >= self.committed_rows(stream):
            return None
        return self._store.stored(stream_key(stream, lane), rows, columns, ITEM_SIZES[lane])

    def chunk_columns(self, stream: str, lane: str) -> int:
        """Width in columns of the unit in which the lane is stored and verified."""
        return self._store.chunk_columns(stream_key(stream, lane))

    def damaged_lanes(self) -> Iterator[FormatError]:
        """Damage of where chunks of lanes lie, which reading shows in some orders only."""
        return self._store.damaged_lanes()

    def stored_bytes(self) -> int:
        """Size on disk in bytes."""
        return self._store.stored_bytes()

    def _index(self, stream: str) -> int:
        return list(self._manifest.by_name).index(stream)
