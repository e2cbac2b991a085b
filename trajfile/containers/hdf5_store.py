"""The arrays of one HDF5 file, reached by raw calls.

Data move with the file's own type in memory, because HDF5's conversions would round and would
rewrite NaNs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Given
from trajfile.containers.folder import sync_folder
from trajfile.containers.full_disk import full_disk_as_resource_error
from trajfile.containers.hdf5_damage import LIBRARY_FAILURES, failures_as_damage
from trajfile.containers.hdf5_datasets import Datasets
from trajfile.containers.hdf5_direct import DirectWriter
from trajfile.containers.hdf5_index import damaged_indexes
from trajfile.containers.hdf5_lanes import in_memory, select
from trajfile.containers.hdf5_tables import load_table, salvage_table
from trajfile.containers.identity import Attributes, check_identity, is_archive
from trajfile.containers.scattered import laid_out
from trajfile.containers.store import ArraySpec, chunk_width
from trajfile.containers.stored import Stored
from trajfile.containers.writer_lock import WriterLock
from trajfile.dtypes import bits_of
from trajfile.errors import FormatError, ResourceError


class Hdf5Store:
    """The arrays of one HDF5 file.

    Args:
        file: The file, open.
        path: Where it lies.
        identity: Its root attributes.
        lock: Held by who appends; None for reading.
        power: Whether closing forces the file to the disk.
        aside: Where the file lies until `begin`, if it is being created.
        left_by_a_kill: Whether its last writer did not close it.
    """

    kind = "hdf5"
    fences = False

    def __init__(
        self,
        file: h5py.File,
        path: Path,
        identity: Attributes,
        lock: WriterLock | None = None,
        *,
        power: bool = False,
        aside: Path | None = None,
        left_by_a_kill: bool = False,
    ):
        self.path = str(path)
        self.uuid, self.format_version = check_identity(identity, path)
        self.archive = is_archive(identity)
        self._path = path
        self._lock = lock
        self._writable = lock is not None
        self._datasets = Datasets(file, path, archive=self.archive, writable=self._writable)
        self._power = power
        self._aside = aside
        self.left_by_a_kill = left_by_a_kill
        self._failed = False
        self._direct = DirectWriter()
        self._left: dict[str, int] = {}  # end of the rows of a lane that may be written over

    def expect(self, specs: Iterable[ArraySpec]) -> None:
        """Check that the arrays exist as specified, with at least as many columns."""
        self._datasets.expect(specs)

    def check_indexes(self) -> None:
        """Walk the chunk index of every array; to be called before appending.

        In single-writer mode the library takes damage for a write in progress, and looks again
        and again, for hours.
        """
        for error in damaged_indexes(self._path, self._datasets.opened):
            raise error

    def damaged_lanes(self) -> Iterator[FormatError]:
        """Walk the chunk index of every lane and yield the damage, unless it is being written."""
        if not WriterLock.is_held(self._path):
            yield from damaged_indexes(self._path, self._datasets.lanes)

    def columns(self, key: str) -> int:
        """Columns that the array has now."""
        return self._datasets.columns(key)

    def load(self, key: str, count: int | None = None) -> NDArray[np.generic]:
        """The first rows of a table, or all that are stored; Damaged if fewer than ``count``."""
        with failures_as_damage(self._path, f"/{key}", "SUM-003"):
            return load_table(self._datasets, self._path, key, count, self.stored_bytes)

    def salvage(self, key: str) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Whatever can be read of a table, and which rows could be; the others are zeros."""
        return salvage_table(self._datasets, self._path, key, self.stored_bytes())

    def compression(self, key: str) -> str | None:
        """How a lane is compressed, as `create` calls it."""
        packed = self._datasets.lanes[key].compression
        return "gzip" if packed == "zlib" else packed

    def save(self, key: str, start: int, values: NDArray[np.generic]) -> None:
        """Write rows of a table from row ``start`` on, which was its end."""
        self.write(key, start, values)

    def widen(self, key: str, columns: int) -> None:
        """Give an array at least that many columns."""
        part = self._datasets.parts(key)[-1]
        dataset = self._datasets.get(part)
        if columns > self.columns(key):
            with self._writing():
                dataset.set_extent((dataset.shape[0], columns - self._datasets.first_columns(key)))

    def read(self, key: str, rows: slice, columns: slice, out: Array) -> None:
        """Fill ``out`` from a lane; every chunk touched must exist and match its checksum."""
        bits = bits_of(out)
        for part, inside, outside in self._datasets.split(key, columns):
            if out.size and inside.stop > inside.start:
                with failures_as_damage(self._path, f"/{part}", "SUM-003"):
                    self._datasets.lanes[part].read(rows, inside, bits, outside.start)

    def stored(self, key: str, rows: NDArray[np.int64], columns: slice, item: int) -> Stored | None:
        """Where the chunks of a block lie; None unless they are plain, whole and in one dataset."""
        found = [
            (part, inside)
            for part, inside, _ in self._datasets.split(key, columns)
            if inside.stop > inside.start
        ]
        if len(found) != 1:
            return None
        [(part, inside)] = found
        try:
            return self._datasets.lanes[part].stored(rows, inside, item)
        except LIBRARY_FAILURES:  # reading says what is wrong
            return None

    def write(self, key: str, start: int, values: Given, column: int = 0) -> None:
        """Write rows from row ``start`` on, and from a column on where a chunk begins."""
        width = values.shape[1] if values.ndim > 1 else 1
        for part, inside, outside in self._datasets.split(key, slice(column, column + width)):
            dataset = self._datasets.get(part)
            if part in self._datasets.lanes:
                self._datasets.lanes[part].forget()
            stop = start + len(values)
            with self._writing():
                shape = dataset.shape
                if stop > shape[0]:
                    dataset.set_extent((stop, *shape[1:]))
                if not len(values) or inside.stop == inside.start:
                    continue
                lane = self._datasets.lanes.get(part)
                if lane is not None and self._direct.suits(lane, values):
                    self._direct.write(dataset, lane, (start, inside.start), values, outside)
                    continue
                values = laid_out(values)  # for this part and those to come
                self._write(part, start, values, inside, outside)

    def _write(self, part: str, start: int, rows: Array, inside: slice, outside: slice) -> None:
        """Write what falls into one dataset, which is large enough, by the library."""
        dataset, lane = self._datasets.get(part), self._datasets.lanes.get(part)
        if lane is not None and start < self._left.get(part, 0):
            for row, bits in enumerate(bits_of(rows)[:, outside], start):
                lane.write_over(row, bits)
            return
        block = (slice(start, start + len(rows)), inside)[: rows.ndim]
        space, memory = select(dataset, block), in_memory(rows, block, outside.start)
        dataset.write(memory, space, rows, dataset.get_type())

    def chunk_columns(self, key: str) -> int:
        """Columns of a chunk of a lane; of an archive those that a chunk of a row would have."""
        if self.archive:  # so that it is read in the same blocks, and sums come out the same
            return chunk_width(self.columns(key))
        return self._datasets.lanes[key].width

    def chunks(self, key: str, rows: int, columns: int) -> int:
        """Chunks that so many rows of the first columns of a lane take at least."""
        height: int = self._datasets.lanes[key].height
        across: int = sum(
            -(-(inside.stop - inside.start) // self._datasets.lanes[part].width)
            for part, inside, _ in self._datasets.split(key, slice(0, columns))
        )
        return -(-rows // height) * across

    def unit(self, key: str) -> tuple[int, int]:
        """Rows and columns that are written at once: a chunk."""
        return self._datasets.lanes[key].height, self._datasets.lanes[key].width

    def tile(self, key: str) -> tuple[int, int] | None:
        """Rows and columns of a chunk; None if it has one row, or what joined has other chunks."""
        lane = self._datasets.lanes[key]
        if lane.height == 1 or len(self._datasets.parts(key)) > 1:
            return None
        return lane.height, lane.width

    def discard(self, key: str, rows: int) -> int:
        """Count rows from ``rows`` on; they stay until they are written over."""
        most = 0
        for part in self._datasets.parts(key):
            with failures_as_damage(self._path, f"/{part}"):
                stored = int(self._datasets.get(part).shape[0])
            if stored > rows:
                most = max(most, stored - rows)
                if key in self._datasets.lanes:
                    self._left[part] = stored
        return most

    def flush(self, keys: Iterable[str]) -> None:
        """Hand the arrays to the operating system, so that they survive a kill."""
        with self._writing():
            for key in keys:
                for part in self._datasets.parts(key):
                    self._datasets.get(part).flush()

    def sync(self, keys: Iterable[str]) -> None:
        """Force the flushed arrays to the disk, so that they survive a loss of power."""
        del keys  # one file holds them all
        with self._writing():
            os.fsync(self._datasets.file.id.get_vfd_handle())

    def begin(self) -> None:
        """A new file enters single-writer mode and gets its name; readers may come from here on."""
        if self._aside is None:
            return
        with self._writing():
            self._datasets.file.flush()
            self._datasets.file.swmr_mode = True
            self._sync()
            self._aside.rename(self._path)
            self._aside = None
            if self._power:
                sync_folder(self._path.parent)

    def undo(self) -> None:
        """Take a creation back that failed."""
        self.let_go()
        self.close()
        # Where even that is refused, what is left lies aside, and the next creation clears it.
        with contextlib.suppress(OSError):
            (self._aside or self._path).unlink(missing_ok=True)

    def let_go(self) -> None:
        """After a failure to write: close the file in the library without writing to it."""
        if not self._failed or self._datasets.opened:
            self._failed = True
            from trajfile.containers.hdf5_resume import abandon

            abandon(self._datasets.file, list(self._datasets.opened.values()))
            self._datasets.forget()

    def revive(self) -> None:
        """Open the file again, as after a kill."""
        assert self._lock is not None, "only a writer fails to write"
        from trajfile.containers.hdf5_resume import open_to_append

        self._datasets.file = open_to_append(self._path, self._lock)
        self._failed = False

    def stored_bytes(self) -> int:
        """Size of the file in bytes."""
        return (self._aside or self._path).stat().st_size

    def close(self) -> None:
        """Release the file; after a failure to write, leave it as a kill would have."""
        try:
            if self._writable and not self._failed:
                with self._writing():
                    self._datasets.file.flush()
                    self._sync()
        finally:
            try:
                with self._writing() if self._writable else contextlib.nullcontext():
                    self._close()
                    self._sync()
            finally:
                if self._lock is not None:
                    self._lock.close()

    def _sync(self) -> None:
        if self._power and not self._failed:
            with (self._aside or self._path).open("rb") as file:
                os.fsync(file.fileno())

    def _close(self) -> None:
        if self._failed:
            self.let_go()
            return
        self._datasets.forget()
        self._datasets.file.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with full_disk_as_resource_error(self._path):
                yield
        except ResourceError:
            self._failed = True
            raise
