"""The arrays of one Zarr hierarchy: tables in small chunks, lanes in one file a row and shard.

What they have in common in a folder and in a store; the rest is in
`trajfile.containers.zarr_folder_store` and `trajfile.containers.zarr_remote_store`.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Given
from trajfile.containers.identity import Attributes, check_identity, is_archive
from trajfile.containers.shards import ShardError, ShardLayout, decode_shard, encode_shard
from trajfile.containers.store import SCALAR_VALUE, ArraySpec, chunk_width
from trajfile.containers.stored import Stored
from trajfile.containers.zarr_documents import Documents
from trajfile.containers.zarr_table import ZarrTable
from trajfile.dtypes import bits_of
from trajfile.errors import FormatError, ResourceError
from trajfile.schema import ABSENT_BITS
from trajfile.stopwatch import at


class ZarrStore(ABC):
    """The arrays below one root.

    Args:
        root: The root.
        files: What reads and writes there: a `Folder` or `Objects`.
        path: Its name.
        identity: Its root attributes.
        writable: Whether to append.
    """

    kind = "zarr"
    fences = False
    left_by_a_kill = False
    _hold = False
    """Whether tables write over exactly what was loaded, and not over what is there by then."""

    def __init__(self, root: Path, files: Any, path: str, identity: Attributes, *, writable: bool):
        self.path = path
        self.uuid, self.format_version = check_identity(identity, path)
        self.archive = is_archive(identity)
        self._root = root
        self._files = files
        self._writable = writable
        self._documents = Documents(root, files, path, archive=self.archive)
        self._lanes: dict[str, ShardLayout] = {}
        self._tables: dict[str, ZarrTable] = {}
        self._rows: dict[str, int] = {}

    def create(self, spec: ArraySpec, compression: str | None) -> None:
        """Create one empty array and the groups above it."""
        self._documents.create(spec, compression)
        self.expect([spec])

    def expect(self, specs: Iterable[ArraySpec]) -> None:
        """Check that the arrays exist as specified, with at least as many columns."""
        for spec in specs:
            lane = self._documents.check(spec)
            if lane is not None:
                self._lanes[spec.key] = lane

    def columns(self, key: str) -> int:
        """Columns that the array has now."""
        shape = self._documents.of(key).shape
        return shape[1] if len(shape) > 1 else 1

    def load(self, key: str, count: int | None = None) -> NDArray[np.generic]:
        """The first rows of a table, or all that are stored; Damaged if fewer than ``count``."""
        flat = len(self._documents.of(key).shape) == 1
        found = self._table(key).load(count, self.columns(key))
        if found is None:
            what = f"holds fewer than the {count} rows committed"
            raise self._documents.damaged(key, what, "COM-002")
        return found[:, 0] if flat else found

    def salvage(self, key: str) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Whatever can be read of a table, and which rows could be; the others are zeros."""
        flat = len(self._documents.of(key).shape) == 1
        found, known = self._table(key).salvage(self.columns(key))
        return (found[:, 0] if flat else found), known

    def assume(self, created: ArraySpec, now: ArraySpec, compression: str | None) -> None:
        """Take an array whose document is lost for one as `create` makes it, since widened."""
        self._documents.assume(created, now, compression)
        self._tables.pop(now.key, None)
        self.expect([now])

    def compression(self, key: str) -> str | None:
        """How a lane is compressed, as `create` calls it."""
        return self._lanes[key].compression

    def save(self, key: str, start: int, values: NDArray[np.generic]) -> None:
        """Write rows of a table from row ``start`` on, which was its end."""
        self._table(key).save(start, values if values.ndim == 2 else values[:, None])
        self._rows[key] = start + len(values)

    def widen(self, key: str, columns: int) -> None:
        """Give an array at least that many columns."""
        if columns > self.columns(key):
            self._documents.reshape(key, [self._documents.of(key).shape[0], columns])

    def read(self, key: str, rows: slice, columns: slice, out: Array) -> None:
        """Fill ``out`` from a lane; every chunk touched must exist and match its checksum."""
        if out.size == 0:
            return
        lane, bits = self._lanes[key], bits_of(out)

        def read_band(band: int) -> None:
            top = band * lane.height
            first, last = max(top, rows.start), min(top + lane.height, rows.stop)
            target = bits[first - rows.start : last - rows.start]
            for shard in range(columns.start // lane.columns, -(-columns.stop // lane.columns)):
                left = shard * lane.columns
                start, stop = max(left, columns.start), min(left + lane.columns, columns.stop)
                part = target[:, start - columns.start : stop - columns.start]
                with at("read"):
                    self._read_shard(key, band, shard, (first - top, start - left), part)

        bands = range(rows.start // lane.height, -(-rows.stop // lane.height))
        self._read_bands(read_band, bands, out.nbytes)

    def write(self, key: str, start: int, values: Given, column: int = 0) -> None:
        """Write rows of a lane from row ``start`` on, and from a column on where a shard begins."""
        lane, width = self._lanes[key], values.shape[1]
        for first in range(0, len(values), lane.height):
            band = (start + first) // lane.height
            rows = slice(first, min(first + lane.height, len(values)))
            for left in range(0, width, lane.columns):
                part = slice(left, min(left + lane.columns, width))
                place = self._shard(key, band, (column + left) // lane.columns)
                # Closed at once where writing is refused, whoever keeps the error.
                with contextlib.closing(encode_shard(values, rows, part, lane)) as parts:
                    self._files.put(place, parts, once=True)
        self._rows[key] = start + len(values)

    def chunk_columns(self, key: str) -> int:
        """Columns of a chunk of a lane; of an archive those that a chunk of a row would have."""
        if self.archive:  # so that it is read in the same blocks, and sums come out the same
            return chunk_width(self.columns(key))
        return self._lanes[key].width

    def chunks(self, key: str, rows: int, columns: int) -> int:
        """Chunks that so many rows of the first columns of a lane take at least."""
        lane = self._lanes[key]
        return -(-rows // lane.height) * -(-columns // lane.width)

    def unit(self, key: str) -> tuple[int, int]:
        """Rows and columns that are written at once: a shard."""
        return self._lanes[key].height, self._lanes[key].columns

    def stored(self, key: str, rows: NDArray[np.int64], columns: slice, item: int) -> Stored | None:
        """None: each row has a file of its own."""
        return None

    def tile(self, key: str) -> tuple[int, int] | None:
        """Rows and columns of an inner chunk; None if it has one row."""
        lane = self._lanes[key]
        return None if lane.height == 1 else (lane.height, lane.width)

    def discard(self, key: str, rows: int) -> int:
        """Forget rows from ``rows`` on, and what a kill left half-written; count those of lanes."""
        self._rows[key] = rows
        if key in self._lanes:
            first = -(-rows // self._lanes[key].height)
            dropped: int = self._files.drop_chunks(self._root / key, first)
            return dropped
        self._table(key).truncate(self._files, rows)
        return 0

    @abstractmethod
    def flush(self, keys: Iterable[str]) -> None:
        """Hand the arrays to the operating system, so that they survive a kill."""

    def sync(self, keys: Iterable[str]) -> None:
        """Force the flushed arrays to the disk, so that they survive a loss of power."""
        for key in keys:
            self._files.sync(self._root / key)

    @abstractmethod
    def begin(self) -> None:
        """All arrays exist: from here on rows are appended and readers may come."""

    @abstractmethod
    def undo(self) -> None:
        """Take a creation back that failed."""

    @abstractmethod
    def let_go(self) -> None:
        """After a failure to write: hold nothing open, and have nothing on its way."""

    def revive(self) -> None:
        """Forget what a failed append left in memory."""
        self._tables.clear()
        self._documents.forget()

    def damaged_lanes(self) -> Iterator[FormatError]:
        """None: each shard holds its own index, under a checksum."""
        return iter(())

    def stored_bytes(self) -> int:
        """Size of all files in bytes."""
        return int(self._files.stored_bytes())

    def put_root(self, identity: Attributes) -> None:
        """Write the root's document, which makes the folder a trajectory."""
        self._documents.create_root(identity)
        self._files.settle()

    def close(self) -> None:
        """Trim the shapes to the rows."""
        if self._writable:
            self._writable = False
            # Readers go by the commit record: a shape that could not be trimmed does no harm.
            with contextlib.suppress(ResourceError):
                self._trim()
                self._files.settle()

    @abstractmethod
    def _read_bands(self, read: Callable[[int], None], bands: range, nbytes: int) -> None:
        """Call `read` for each row of shards, of `nbytes` bytes together."""

    def _flush_tables(self, keys: Iterable[str]) -> None:
        for key in keys:
            if key not in self._lanes:
                self._table(key).flush(self._files)

    def _grow(self, keys: Iterable[str]) -> None:
        """Give arrays shapes that their rows fit in."""
        for key in keys:
            shape = self._documents.of(key).shape
            if self._rows.get(key, 0) > shape[0]:
                # Twice as many rows as needed, so that this file is seldom rewritten. Readers
                # go by the commit record, and closing trims the shape.
                self._documents.reshape(key, [2 * self._rows[key], *shape[1:]])
                self._files.settle()

    def _trim(self) -> None:
        for key, rows in self._rows.items():
            shape = self._documents.of(key).shape
            if shape[0] > rows:
                self._documents.reshape(key, [rows, *shape[1:]])

    def _table(self, key: str) -> ZarrTable:
        if key not in self._tables:
            document = self._documents.of(key)
            chunk = document.chunk_shape
            self._tables[key] = ZarrTable(
                self._root / key,
                self._files,
                np.dtype(document.data_type).newbyteorder("<"),
                (chunk[0], chunk[1] if len(chunk) > 1 else 1),
                flat=len(chunk) == 1,
                fill=ABSENT_BITS if key == SCALAR_VALUE else 0,
                damaged=lambda what: self._documents.damaged(key, what, "SUM-003"),
                unsafe=lambda what: self._documents.unsafe(key, what, "CORE-009"),
                hold=self._hold and self._writable,
            )
        return self._tables[key]

    def _shard(self, key: str, band: int, shard: int) -> Path:
        return self._root / f"{key}/c.{band}.{shard}"

    def _read_shard(
        self, key: str, band: int, shard: int, corner: tuple[int, int], out: Array
    ) -> None:
        row = band * self._lanes[key].height + corner[0]
        try:
            with self._files.opened(self._shard(key, band, shard)) as file:
                decode_shard(file, self._lanes[key], *corner, out)
        except FileNotFoundError as error:
            what = f"committed row {row} is missing"
            raise self._documents.damaged(key, what, "SUM-002") from error
        except ShardError as error:
            rule = "SUM-002" if error.missing else "SUM-003"
            raise self._documents.damaged(key, f"in row {row}, {error}", rule) from error
