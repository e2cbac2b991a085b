"""The arrays of one Zarr folder: tables in small chunks, lanes in one file a row and shard."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array
from trajfile.containers.folder import Folder, sync_folder
from trajfile.containers.full_disk import full_disk_as_resource_error
from trajfile.containers.identity import Attributes, check_identity, is_archive
from trajfile.containers.objects import Objects
from trajfile.containers.shards import ShardError, ShardLayout, decode_shard, encode_shard
from trajfile.containers.store import SCALAR_VALUE, ArraySpec, chunk_width
from trajfile.containers.writer_lock import WriterLock
from trajfile.containers.zarr_metadata import (
    ArrayDocument,
    GroupDocument,
    LayoutError,
    array_document,
    check_array,
    group_document,
)
from trajfile.containers.zarr_table import ZarrTable
from trajfile.dtypes import bits_of
from trajfile.errors import Damaged, FormatError, ResourceError, Unsafe
from trajfile.schema import ABSENT_BITS
from trajfile.stopwatch import at

DOCUMENT = "zarr.json"
INVALID_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_THREADS = 4
_PARALLEL_BYTES = 2**23


class ZarrStore:
    """The arrays of one folder.

    Args:
        path: The folder.
        identity: Its root attributes.
        writable: Whether to append.
        power: Whether files are forced to the disk.
        aside: Where the folder lies until `begin`, if it is being created.
        objects: Where it lies, if that is in a store.
    """

    kind = "zarr"

    def __init__(
        self,
        path: Path,
        identity: Attributes,
        *,
        writable: bool,
        power: bool,
        aside: Path | None = None,
        objects: Objects | None = None,
    ):
        self.path = str(path) if objects is None else objects.bucket.url
        self.uuid, self.format_version = check_identity(identity, self.path)
        self.archive = is_archive(identity)
        self._root = aside or path
        self._aside = aside is not None
        self._objects = objects
        self._folder: Any = objects or Folder(self._root, power=power)
        self._lock = WriterLock(self._root) if writable and objects is None else None
        self._writable = writable
        self.fences = writable and objects is not None
        self._power = power
        self._documents: dict[str, dict[str, Any]] = {}
        self._parsed: dict[str, ArrayDocument] = {}
        self._groups: set[str] = set()
        self._lanes: dict[str, ShardLayout] = {}
        self._tables: dict[str, ZarrTable] = {}
        self._rows: dict[str, int] = {}
        self._pool: ThreadPoolExecutor | None = None
        lease = objects.lease if objects is not None else None
        self.left_by_a_kill = lease is not None and lease.taken_over

    def create(self, spec: ArraySpec, compression: str | None) -> None:
        """Create one empty array and the groups above it."""
        folder = self._root
        for part in spec.key.split("/")[:-1]:
            folder /= part
            self._folder.make(folder)
            if not self._folder.holds(folder / DOCUMENT):
                self._folder.put(folder / DOCUMENT, [msgspec.json.encode(group_document())])
        self._folder.make(self._root / spec.key)
        document = array_document(spec, compression, archive=self.archive)
        self._documents[spec.key] = document
        self._parsed[spec.key] = msgspec.convert(document, ArrayDocument)
        self._reshape(spec.key, document["shape"])
        self.expect([spec])

    def expect(self, specs: Iterable[ArraySpec]) -> None:
        """Check that the arrays exist as specified, with at least as many columns."""
        for spec in specs:
            document = self._document(spec.key)
            try:
                lane = check_array(document, spec, archive=self.archive)
            except LayoutError as error:
                wrong = self._unsafe if error.rule == "ZR-007" else self._damaged
                raise wrong(spec.key, f"the array {error}", error.rule) from error
            if lane is not None:
                self._lanes[spec.key] = lane

    def columns(self, key: str) -> int:
        """Columns that the array has now."""
        shape = self._document(key).shape
        return shape[1] if len(shape) > 1 else 1

    def load(self, key: str, count: int | None = None) -> NDArray[np.generic]:
        """The first rows of a table, or all that are stored; Damaged if fewer than ``count``."""
        flat = len(self._document(key).shape) == 1
        found = self._table(key).load(count, self.columns(key))
        if found is None:
            raise self._damaged(key, f"holds fewer than the {count} rows committed", "COM-002")
        return found[:, 0] if flat else found

    def salvage(self, key: str) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Whatever can be read of a table, and which rows could be; the others are zeros."""
        flat = len(self._document(key).shape) == 1
        found, known = self._table(key).salvage(self.columns(key))
        return (found[:, 0] if flat else found), known

    def assume(self, created: ArraySpec, now: ArraySpec, compression: str | None) -> None:
        """Take an array whose document is lost for one as `create` makes it, since widened."""
        document = array_document(created, compression, archive=self.archive)
        document["shape"] = [0] if now.columns is None else [0, now.columns]
        self._documents[now.key] = document
        self._parsed[now.key] = msgspec.convert(document, ArrayDocument)
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
            self._reshape(key, [self._document(key).shape[0], columns])

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
        if self._objects is not None:
            for _ in self._objects.bucket.pool.map(read_band, bands):
                pass
            return
        if out.nbytes < _PARALLEL_BYTES or len(bands) == 1:
            for band in bands:
                read_band(band)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="trajfile-zarr")
        with at("wait"):
            for _ in self._pool.map(read_band, bands):
                pass

    def write(self, key: str, start: int, values: Array, column: int = 0) -> None:
        """Write rows of a lane from row ``start`` on, and from a column on where a shard begins."""
        lane, bits = self._lanes[key], bits_of(values)
        for first in range(0, len(bits), lane.height):
            band = (start + first) // lane.height
            for left in range(0, bits.shape[1], lane.columns):
                part = bits[first : first + lane.height, left : left + lane.columns]
                place = self._shard(key, band, (column + left) // lane.columns)
                self._folder.put(place, encode_shard(part, lane), once=True)
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

    def tile(self, key: str) -> tuple[int, int] | None:
        """Rows and columns of an inner chunk; None if it has one row."""
        lane = self._lanes[key]
        return None if lane.height == 1 else (lane.height, lane.width)

    def discard(self, key: str, rows: int) -> int:
        """Forget rows from ``rows`` on, and what a kill left half-written; count those of lanes."""
        in_files = self._objects is None  # else the lease tells
        if self._document(key).shape[0] > rows and not self._aside and in_files:
            self.left_by_a_kill = True  # closing trims shapes
        self._rows[key] = rows
        if key in self._lanes:
            dropped: int = self._folder.drop_chunks(
                self._root / key, -(-rows // self._lanes[key].height)
            )
            self.left_by_a_kill |= dropped > 0 and in_files
            return dropped
        self._table(key).truncate(self._folder, rows)
        return 0

    def flush(self, keys: Iterable[str]) -> None:
        """Hand the arrays to the operating system, so that they survive a kill."""
        keys = list(keys)
        if self._objects is None:  # what gets its name before a commit is synced before it
            self._flush_tables(keys)
        for key in keys:
            shape = self._document(key).shape
            if self._rows.get(key, 0) > shape[0]:
                # Twice as many rows as needed, so that this file is seldom rewritten. Readers
                # go by the commit record, and closing trims the shape.
                self._reshape(key, [2 * self._rows[key], *shape[1:]])
                self._folder.settle()
        if self._objects is not None:  # once a commit is in a store, nothing is left to fail
            self._flush_tables(keys)
        self._folder.settle()

    def _flush_tables(self, keys: list[str]) -> None:
        for key in keys:
            if key not in self._lanes:
                self._table(key).flush(self._folder)

    def sync(self, keys: Iterable[str]) -> None:
        """Force the flushed arrays to the disk, so that they survive a loss of power."""
        for key in keys:
            self._folder.sync(self._root / key)

    def begin(self) -> None:
        """A new folder gets its name; readers may come from here on."""
        if not self._aside:
            return
        path = Path(self.path)
        if self._power:
            self._folder.sync_all()
        with full_disk_as_resource_error(path):
            self._root.rename(path)
            self._root, self._aside = path, False
            self._folder = Folder(path, power=self._power)
            self._tables.clear()  # they know the old name
            if self._power:
                sync_folder(path.parent)

    def undo(self) -> None:
        """Take a creation back that failed."""
        self._writable = False
        if self._objects is None:
            self.close()
            shutil.rmtree(self._root, ignore_errors=True)
            return
        with contextlib.suppress(ResourceError):
            self._objects.clear()
        self.close()

    def let_go(self) -> None:
        """After a failure to write: nothing is held open, nor on its way."""
        if self._objects is not None:
            self._objects.forget()

    def revive(self) -> None:
        """Forget what a failed append left in memory."""
        if self._objects is not None:
            self._objects.forget()
        self._tables.clear()
        self._documents.clear()
        self._parsed.clear()

    def damaged_lanes(self) -> Iterator[FormatError]:
        """None: each shard holds its own index, under a checksum."""
        return iter(())

    def stored_bytes(self) -> int:
        """Size of all files in bytes."""
        return int(self._folder.stored_bytes())

    def put_root(self, identity: Attributes) -> None:
        """Write the root's document, which makes the folder a trajectory."""
        self._folder.put(self._root / DOCUMENT, [msgspec.json.encode(group_document(identity))])
        self._folder.settle()

    def close(self) -> None:
        """Trim the shapes to the rows, and let go of the folder."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
        if self._writable:
            self._writable = False
            # Readers go by the commit record: a shape that could not be trimmed does no harm.
            with contextlib.suppress(ResourceError):
                self._trim()
                self._folder.settle()
        if self._lock is not None:
            self._lock.close()
        if self._objects is not None:
            self._objects.close()

    def _trim(self) -> None:
        for key, rows in self._rows.items():
            shape = self._document(key).shape
            if shape[0] > rows:
                self._reshape(key, [rows, *shape[1:]])

    def _document(self, key: str) -> ArrayDocument:
        if key not in self._documents:
            *groups, _ = (key[: at.start()] for at in re.finditer("/|$", key))
            try:
                for group in groups:
                    self._check_group(group)
                self._folder.refuse_link(self._root / key)
                raw = msgspec.json.decode(self._folder.document(self._root / key / DOCUMENT))
                self._parsed[key] = msgspec.convert(raw, ArrayDocument)
            except FileNotFoundError as error:
                raise self._damaged(key, "the array is missing", "CORE-007") from error
            except INVALID_JSON as error:
                raise self._damaged(key, f"zarr.json is not valid: {error}", "ZR-002") from error
            self._documents[key] = raw
        return self._parsed[key]

    def _check_group(self, key: str) -> None:
        if key in self._groups:
            return
        self._folder.refuse_link(self._root / key)
        try:
            msgspec.json.decode(
                self._folder.document(self._root / key / DOCUMENT), type=GroupDocument
            )
        except (FileNotFoundError, *INVALID_JSON) as error:
            raise self._damaged(key, "it has no valid zarr.json of a group", "ZR-003") from error
        self._groups.add(key)

    def _reshape(self, key: str, shape: list[int]) -> None:
        self._documents[key]["shape"] = self._parsed[key].shape = shape
        document = msgspec.json.encode(self._documents[key])
        self._folder.put(self._root / key / DOCUMENT, [document])

    def _table(self, key: str) -> ZarrTable:
        if key not in self._tables:
            chunk = self._document(key).chunk_shape
            self._tables[key] = ZarrTable(
                self._root / key,
                self._folder,
                np.dtype(self._document(key).data_type).newbyteorder("<"),
                (chunk[0], chunk[1] if len(chunk) > 1 else 1),
                flat=len(chunk) == 1,
                fill=ABSENT_BITS if key == SCALAR_VALUE else 0,
                damaged=lambda what: self._damaged(key, what, "SUM-003"),
                unsafe=lambda what: self._unsafe(key, what, "CORE-009"),
                hold=self._objects is not None and self._writable,
            )
        return self._tables[key]

    def _shard(self, key: str, band: int, shard: int) -> Path:
        return self._root / key / f"c.{band}.{shard}"

    def _read_shard(
        self, key: str, band: int, shard: int, corner: tuple[int, int], out: Array
    ) -> None:
        row = band * self._lanes[key].height + corner[0]
        try:
            with self._folder.opened(self._shard(key, band, shard)) as file:
                decode_shard(file, self._lanes[key], *corner, out)
        except FileNotFoundError as error:
            raise self._damaged(key, f"committed row {row} is missing", "SUM-002") from error
        except ShardError as error:
            rule = "SUM-002" if error.missing else "SUM-003"
            raise self._damaged(key, f"in row {row}, {error}", rule) from error

    def _damaged(self, key: str, what: str, rule: str) -> Damaged:
        return Damaged(
            f"{self.path}, /{key}: {what}; restore the folder from a copy",
            path=self.path,
            location=f"/{key}",
            rule=rule,
        )

    def _unsafe(self, key: str, what: str, rule: str) -> Unsafe:
        return Unsafe(
            f"{self.path}, /{key}: {what}, which a safe reader does not follow: read only "
            "trajectories from a conforming writer",
            path=self.path,
            location=f"/{key}",
            rule=rule,
        )
