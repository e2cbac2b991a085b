"""The arrays of one HDF5 file, reached by raw calls.

Data move with the file's own type in memory, because HDF5's conversions would round and would
rewrite NaNs.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5p, h5s
from numpy.typing import NDArray

from trajfile.containers.base import Array
from trajfile.containers.folder import sync_folder
from trajfile.containers.full_disk import full_disk_as_resource_error
from trajfile.containers.hdf5_attributes import read_text
from trajfile.containers.hdf5_damage import LIBRARY_FAILURES, failures_as_damage
from trajfile.containers.hdf5_index import damaged_indexes
from trajfile.containers.hdf5_lanes import Lane, in_memory, select
from trajfile.containers.hdf5_open import check_storage
from trajfile.containers.hdf5_types import file_type, load_zstd
from trajfile.containers.identity import Attributes, check_identity, is_archive
from trajfile.containers.store import (
    MAX_CHUNK_COLUMNS,
    SCALAR_VALUE,
    ArraySpec,
    believable_bytes,
    chunk_width,
)
from trajfile.containers.writer_lock import WriterLock
from trajfile.dtypes import bits_of
from trajfile.errors import Damaged, FormatError, ResourceError, Unsafe


def joined_key(key: str) -> str:
    """Key of the dataset that holds the columns that join a lane later."""
    # Only a dataset with a single unlimited dimension has an index that grows without rewriting
    # its nodes (which, while readers may be there, would leak several KiB a row). So a lane stays
    # as wide as at its creation, and what joins goes there.
    return key + ".joined"


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
        self._file = file
        self._path = path
        self._lock = lock
        self._writable = lock is not None
        self._power = power
        self._aside = aside
        self.left_by_a_kill = left_by_a_kill
        self._failed = False
        self._datasets: dict[str, h5d.DatasetID] = {}
        self._filters: dict[str, tuple[int, ...]] = {}
        self._lanes: dict[str, int] = {}  # those that can widen: columns of the first dataset
        self._readers: dict[str, Lane] = {}
        self._left: dict[str, int] = {}  # end of the rows of a lane that may be written over

    def expect(self, specs: Iterable[ArraySpec]) -> None:
        """Check that the arrays exist as specified, with at least as many columns."""
        for spec in specs:
            with failures_as_damage(self._path, f"/{spec.key}"):
                self._check(spec)
                if spec.lane and joined_key(spec.key) in self._file:
                    self._lanes[spec.key] = self._dataset(spec.key).shape[1]
                    self._check(replace(spec, key=joined_key(spec.key), columns=0))
                if spec.columns is not None and self.columns(spec.key) < spec.columns:
                    raise self._wrong(spec.key, f"has fewer than {spec.columns} columns")

    def check_indexes(self) -> None:
        """Walk the chunk index of every array; to be called before appending.

        In single-writer mode the library takes damage for a write in progress, and looks again
        and again, for hours.
        """
        for error in damaged_indexes(self._path, self._datasets):
            raise error

    def damaged_lanes(self) -> Iterator[FormatError]:
        """Walk the chunk index of every lane and yield the damage, unless it is being written."""
        if not WriterLock.is_held(self._path):
            yield from damaged_indexes(self._path, self._readers)

    def columns(self, key: str) -> int:
        """Columns that the array has now."""
        with failures_as_damage(self._path, f"/{key}"):
            return sum(int(self._dataset(part).shape[1]) for part in self._parts(key))

    def load(self, key: str, count: int | None = None) -> NDArray[np.generic]:
        """The first rows of a table, or all that are stored; Damaged if fewer than ``count``."""
        with failures_as_damage(self._path, f"/{key}", "SUM-003"):
            return self._load(key, count)

    def salvage(self, key: str) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Whatever can be read of a table, and which rows could be; the others are zeros."""
        with failures_as_damage(self._path, f"/{key}"):
            dataset = self._dataset(key)
            shape, dtype = dataset.shape, dataset.dtype
            height = int(dataset.get_create_plist().get_chunk()[0])
            if math.prod(shape) * dtype.itemsize > believable_bytes(self.stored_bytes()):
                raise self._damaged(key, f"has shape {shape}, far beyond its bytes", "CORE-009")
        out, known = np.zeros(shape, dtype), np.zeros(shape[0], np.bool_)
        for first in range(0, shape[0], height):
            part = slice(first, min(first + height, shape[0]))
            block = (part, *(slice(0, n) for n in shape[1:]))
            with contextlib.suppress(Damaged), failures_as_damage(self._path, f"/{key}"):
                target = out[part]
                if target.size:
                    memory = h5s.create_simple(target.shape)
                    dataset.read(memory, select(dataset, block), target, dataset.get_type())
                known[part] = True
        return out, known

    def compression(self, key: str) -> str | None:
        """How a lane is compressed, as `create` calls it."""
        packed = self._readers[key].compression
        return "gzip" if packed == "zlib" else packed

    def _load(self, key: str, count: int | None) -> NDArray[np.generic]:
        dataset = self._dataset(key)
        shape = dataset.shape
        rows = shape[0] if count is None else count
        if rows > shape[0]:
            raise self._damaged(key, f"has {shape[0]} rows where {rows} are committed", "COM-002")
        wanted = (rows, *shape[1:])
        dtype = dataset.dtype
        # Chunks may claim the same place twice: no more than the file is there. To ask is to walk
        # the index of the chunks, which is as long as it says.
        size = math.prod(wanted) * dtype.itemsize
        if size > believable_bytes(0) and size > believable_bytes(
            min(self._stored(dataset), self.stored_bytes())
        ):
            raise Unsafe(
                f"{self.path}, /{key}: shape {shape} is far beyond the bytes stored: read only "
                "files from a conforming writer",
                path=self.path,
                location=f"/{key}",
                rule="CORE-009",
            )
        out = np.empty(wanted, dtype)
        if out.size:
            space = select(dataset, tuple(slice(0, n) for n in wanted))
            dataset.read(h5s.create_simple(wanted), space, out, dataset.get_type())
        return out

    def save(self, key: str, start: int, values: NDArray[np.generic]) -> None:
        """Write rows of a table from row ``start`` on, which was its end."""
        self.write(key, start, values)

    def widen(self, key: str, columns: int) -> None:
        """Give an array at least that many columns."""
        part = self._parts(key)[-1]
        dataset = self._dataset(part)
        if columns > self.columns(key):
            with self._writing():
                dataset.set_extent((dataset.shape[0], columns - self._lanes.get(key, 0)))

    def read(self, key: str, rows: slice, columns: slice, out: Array) -> None:
        """Fill ``out`` from a lane; every chunk touched must exist and match its checksum."""
        bits = bits_of(out)
        for part, inside, outside in self._split(key, columns):
            if out.size and inside.stop > inside.start:
                with failures_as_damage(self._path, f"/{part}", "SUM-003"):
                    self._readers[part].read(rows, inside, bits, outside.start)

    def write(self, key: str, start: int, values: Array, column: int = 0) -> None:
        """Write rows from row ``start`` on, and from a column on where a chunk begins."""
        width = values.shape[1] if values.ndim > 1 else 1
        for part, inside, outside in self._split(key, slice(column, column + width)):
            dataset = self._dataset(part)
            if part in self._readers:
                self._readers[part].forget()
            stop = start + len(values)
            with self._writing():
                shape = dataset.shape
                if stop > shape[0]:
                    dataset.set_extent((stop, *shape[1:]))
                if start < self._left.get(part, 0) and inside.stop > inside.start:
                    bits = bits_of(values)[:, outside]
                    for row in range(len(values)):
                        self._readers[part].write_over(start + row, bits[row])
                elif values.size and inside.stop > inside.start:
                    block = (slice(start, stop), inside)[: values.ndim]
                    space, memory = select(dataset, block), in_memory(values, block, outside.start)
                    dataset.write(memory, space, values, dataset.get_type())

    def chunk_columns(self, key: str) -> int:
        """Columns of a chunk of a lane; of an archive those that a chunk of a row would have."""
        if self.archive:  # so that it is read in the same blocks, and sums come out the same
            return chunk_width(self.columns(key))
        return self._readers[key].width

    def chunks(self, key: str, rows: int, columns: int) -> int:
        """Chunks that so many rows of the first columns of a lane take at least."""
        height: int = self._readers[key].height
        across: int = sum(
            -(-(inside.stop - inside.start) // self._readers[part].width)
            for part, inside, _ in self._split(key, slice(0, columns))
        )
        return -(-rows // height) * across

    def unit(self, key: str) -> tuple[int, int]:
        """Rows and columns that are written at once: a chunk."""
        return self._readers[key].height, self._readers[key].width

    def tile(self, key: str) -> tuple[int, int] | None:
        """Rows and columns of a chunk; None if it has one row, or what joined has other chunks."""
        lane = self._readers[key]
        if lane.height == 1 or len(self._parts(key)) > 1:
            return None
        return lane.height, lane.width

    def discard(self, key: str, rows: int) -> int:
        """Count rows from ``rows`` on; they stay until they are written over."""
        most = 0
        for part in self._parts(key):
            with failures_as_damage(self._path, f"/{part}"):
                stored = int(self._dataset(part).shape[0])
            if stored > rows:
                most = max(most, stored - rows)
                if key in self._readers:
                    self._left[part] = stored
        return most

    def flush(self, keys: Iterable[str]) -> None:
        """Hand the arrays to the operating system, so that they survive a kill."""
        with self._writing():
            for key in keys:
                for part in self._parts(key):
                    self._dataset(part).flush()

    def sync(self, keys: Iterable[str]) -> None:
        """Force the flushed arrays to the disk, so that they survive a loss of power."""
        del keys  # one file holds them all
        with self._writing():
            os.fsync(self._file.id.get_vfd_handle())

    def begin(self) -> None:
        """A new file enters single-writer mode and gets its name; readers may come from here on."""
        if self._aside is None:
            return
        with self._writing():
            self._file.flush()
            self._file.swmr_mode = True
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
        if not self._failed or self._datasets:
            self._failed = True
            from trajfile.containers.hdf5_resume import abandon

            abandon(self._file, list(self._datasets.values()))
            self._datasets.clear()
            self._readers.clear()

    def revive(self) -> None:
        """Open the file again, as after a kill."""
        assert self._lock is not None, "only a writer fails to write"
        from trajfile.containers.hdf5_resume import open_to_append

        self._file = open_to_append(self._path, self._lock)
        self._failed = False

    def stored_bytes(self) -> int:
        """Size of the file in bytes."""
        return (self._aside or self._path).stat().st_size

    def close(self) -> None:
        """Release the file; after a failure to write, leave it as a kill would have."""
        try:
            if self._writable and not self._failed:
                with self._writing():
                    self._file.flush()
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
        self._datasets.clear()
        self._readers.clear()
        self._file.close()

    def _dataset(self, key: str, *, lane: bool = False) -> h5d.DatasetID:
        if key not in self._datasets:
            access = h5p.create(h5p.DATASET_ACCESS)
            if lane:
                access.set_chunk_cache(0, 0, 0.0)  # a chunk is read or written whole, once
            try:
                dataset = h5d.open(self._file.id, key.encode(), access)
            except LIBRARY_FAILURES as error:
                raise self._wrong(key, "is missing") from error
            self._filters[key] = check_storage(dataset, self._path, f"/{key}")
            if self._file.swmr_mode and not self._writable:
                dataset.refresh()
            self._datasets[key] = dataset
        return self._datasets[key]

    def _parts(self, key: str) -> list[str]:
        """The datasets that make up an array: a lane's joined columns lie in one of their own."""
        return [key, joined_key(key)] if key in self._lanes else [key]

    def _split(self, key: str, columns: slice) -> Iterator[tuple[str, slice, slice]]:
        """For each dataset its columns, and which of the given columns they are."""
        end = self._lanes.get(key, columns.stop)
        for part, first, last in zip(self._parts(key), (0, end), (end, columns.stop), strict=False):
            start, stop = max(columns.start, first), min(columns.stop, last)
            inside = slice(start - first, max(start, stop) - first)
            yield part, inside, slice(start - columns.start, max(start, stop) - columns.start)

    def _check(self, spec: ArraySpec) -> None:
        dataset = self._dataset(spec.key, lane=spec.lane)
        if dataset.rank != (1 if spec.columns is None else 2):
            raise self._wrong(spec.key, f"has shape {dataset.shape}")
        if not dataset.get_type().equal(file_type(spec.dtype)):
            raise self._wrong(spec.key, f"does not hold {spec.dtype}", "DT-002")
        rows, width = (*dataset.get_create_plist().get_chunk(), 1)[:2]
        filters = self._filters[spec.key]
        if spec.key == SCALAR_VALUE or (spec.columns == 0 and spec.lane):
            limits = dataset.get_space().get_simple_extent_dims(True)
            if limits[1] != h5s.UNLIMITED:
                raise self._wrong(spec.key, "cannot be extended sideways", "H5-009")
        if not spec.lane:
            if filters:
                raise self._wrong(spec.key, "is filtered, yet rewritten in place", "H5-008")
            return
        if rows * width > MAX_CHUNK_COLUMNS or (rows != 1 and not self.archive):
            raise self._wrong(spec.key, f"has chunks of {rows} x {width}", "H5-010")
        if read_text(dataset, "dtype") != spec.dtype:
            raise self._wrong(spec.key, f"lacks the attribute dtype={spec.dtype!r}", "DT-003")
        try:
            lane = Lane(
                dataset,
                filters,
                lambda what, rule: self._damaged(spec.key, what, rule),
                self._descriptor(),
            )
        except ValueError as error:
            raise self._wrong(spec.key, str(error), "H5-007") from error
        if lane.compression == "zstd" and self._writable:
            load_zstd(self._path)
        self._readers[spec.key] = lane

    def _descriptor(self) -> int | None:
        """The open file, for reading chunks where they lie; None if the library must.

        It must where it may hold what is not yet in the file, and where addresses do not count
        from the file's first byte.

        Returns:
            The library's own descriptor.
        """
        if self._writable or self._file.driver != "sec2" or self._file.userblock_size:
            return None
        return int(self._file.id.get_vfd_handle())

    @staticmethod
    def _stored(dataset: h5d.DatasetID) -> int:
        return int(dataset.get_storage_size())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            with full_disk_as_resource_error(self._path):
                yield
        except ResourceError:
            self._failed = True
            raise

    def _wrong(self, key: str, what: str, rule: str = "CORE-007") -> Damaged:
        return self._damaged(key, f"the array {what}", rule)

    def _damaged(self, key: str, what: str, rule: str) -> Damaged:
        return Damaged(
            f"{self.path}, /{key}: {what}; restore the file from a copy",
            path=self.path,
            location=f"/{key}",
            rule=rule,
        )
