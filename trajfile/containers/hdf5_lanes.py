"""Reading blocks of a lane from HDF5: every chunk must be there, and match its checksum."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import product

import numpy as np
from h5py import h5d, h5s, h5z
from numpy.typing import NDArray

from trajfile.containers import checksum, hdf5_plain
from trajfile.containers.base import Array
from trajfile.containers.hdf5_chunk_table import ChunkTable
from trajfile.containers.hdf5_chunks import compression_of, decode_chunk, encode_chunk
from trajfile.containers.packing import PackingError
from trajfile.containers.scratch import scratch
from trajfile.containers.stored import Stored, announce, stored
from trajfile.containers.threads import Threads
from trajfile.containers.unpacking import Chunks, unpackable
from trajfile.stopwatch import at

#: Enough to keep a disk busy; and on many cores, the checksums.
THREADS = max(4, min(8, os.cpu_count() or 1))
_PARALLEL_BYTES = 2**21
#: Bytes of plain chunks that a thread takes at a time.
_SHARE_BYTES = 2**21
#: Smaller chunks are read faster by one call of the library than one by one.
_DIRECT_BYTES = 2**16


class Lane:
    """One dataset of a lane.

    Args:
        dataset: Its chunks are (1, w); in an archive (h, w).
        filters: Ids of its filters, in order.
        damaged: Makes the error for what is found wrong, given words and a rule's id.
        descriptor: The file, open, where chunks lie at the addresses that the library names;
            otherwise None.
        threads: To read with.
    """

    def __init__(
        self,
        dataset: h5d.DatasetID,
        filters: tuple[int, ...],
        damaged: Callable[[str, str], Exception],
        descriptor: int | None,
        threads: Threads,
    ):
        self.height, self.width = (int(n) for n in dataset.get_create_plist().get_chunk())
        self.compression = compression_of(filters)
        #: Whether elements lie in the file as they are, with a checksum behind each chunk.
        self.plain = filters == (h5z.FILTER_FLETCHER32,)
        self._dataset = dataset
        self._filters = filters
        self._damaged = damaged
        self._descriptor = descriptor if hasattr(os, "preadv") else None
        self._threads = threads
        self._table = ChunkTable(dataset, (self.height, self.width), damaged)

    def forget(self) -> None:
        """Forget which chunks exist, because more are being written."""
        self._table.forget()

    def write_over(self, row: int, values: Array) -> None:
        """Write a row whose chunks may exist, in whatever state a kill left them.

        The library would read a chunk first of which only a part is written, such as the last one
        of a row, and fail over one that was cut off.

        Args:
            row: The row.
            values: Unsigned integers, shape (columns,), from the first column on.
        """
        for first in range(0, len(values), self.width):
            chunk = np.zeros((1, self.width), values.dtype)
            part = values[first : first + self.width]
            chunk[0, : len(part)] = part
            self._dataset.write_direct_chunk((row, first), self.encode(chunk))

    def encode(self, chunk: Array, planes: NDArray[np.uint8] | None = None) -> bytes:
        """Apply the filters to one chunk; see `encode_chunk`."""
        return encode_chunk(chunk, self._filters, planes)

    def read(self, rows: slice, columns: slice, out: Array, first: int) -> None:
        """Read a block into ``out``, from its column ``first`` on.

        Args:
            rows: Contiguous rows.
            columns: Contiguous columns of this dataset.
            out: C-contiguous, as many rows, unsigned integers of the dtype's size.
            first: First column of ``out`` to fill.
        """
        shape = self._dataset.shape
        if rows.stop > shape[0] or columns.stop > shape[1]:
            raise self._damaged(f"has only shape {shape}", "COM-002")
        places = self._table.places(rows, columns)
        try:
            target = out[:, first : first + columns.stop - columns.start]
            if self._row_by_row(out):
                self._gather(places, columns, target)
                return
            if self.compression is None and not (self.plain and self._direct(out)):
                space = select(self._dataset, (rows, columns))
                memory = in_memory(out, (rows, columns), first)
                with at("read"):  # and verify, which the library does by itself
                    self._dataset.read(memory, space, out, self._dataset.get_type())
            else:
                self._unpack(places, rows, columns, target)
        except PackingError as error:
            raise self._damaged(str(error), "SUM-003") from error
        except (OSError, RuntimeError) as error:
            what = "a chunk fails its checksum or cannot be read"
            raise self._damaged(what, "SUM-003") from error

    def stored(self, rows: NDArray[np.int64], columns: slice, item: int) -> Stored | None:
        """Where the chunks of a block lie, if they are plain; see `ArrayStore.stored`."""
        if (
            self.height > 1
            or not self.plain
            or self._descriptor is None
            or self.width * item < _DIRECT_BYTES
        ):
            return None
        shape = self._dataset.shape
        if rows[-1] >= shape[0] or columns.stop > shape[1]:
            return None
        places = self._table.places_of(rows, columns)
        if places is None or (places[:, :, 1] != self.width * item + 4).any():
            return None
        return stored(
            *(self._descriptor, places[:, :, 0], self.width * item),
            *(columns.start * item, columns.stop * item),
        )

    def _unpack(self, places: NDArray[np.int64], rows: slice, columns: slice, out: Array) -> None:
        """Read chunks, verifying and decoding several at a time."""
        if out.nbytes >= checksum.LARGE_BYTES:
            checksum.prepare()
        if self._unpacked(places, rows, columns, out):
            return

        def unpack(chunk: tuple[tuple[int, int], NDArray[np.int64]]) -> None:
            with at("read"):
                fetch(*chunk)

        def fetch(corner: tuple[int, int], place: NDArray[np.int64]) -> None:
            top, left = corner
            first, last = max(top, rows.start), min(top + self.height, rows.stop)
            start, stop = max(left, columns.start), min(left + self.width, columns.stop)
            target = out[first - rows.start : last - rows.start]
            target = target[:, start - columns.start : stop - columns.start]
            whole_row = self.height == 1 and stop - start == self.width
            if whole_row:
                decode_chunk(self._fetch(corner, place), self._filters, target[0])
                return
            chunk = scratch("chunk", self.height * self.width * out.itemsize).view(out.dtype)
            decode_chunk(self._fetch(corner, place), self._filters, chunk)
            tile = chunk.reshape(self.height, self.width)
            target[...] = tile[first - top : last - top, start - left : stop - left]

        tops = range(rows.start // self.height * self.height, rows.stop, self.height)
        corners = product(tops, self._lefts(columns))
        chunks = list(zip(corners, places.reshape(-1, 2), strict=True))
        if len(chunks) == 1 or out.nbytes < _PARALLEL_BYTES:
            for chunk in chunks:
                unpack(chunk)
            return
        self._threads.each(unpack, chunks)

    def _unpacked(self, places: NDArray[np.int64], rows: slice, columns: slice, out: Array) -> bool:
        """The same by compiled loops; False if they cannot, or something is wrong."""
        if self.compression != "zstd" or self._descriptor is None or not checksum.compiled():
            return False
        shuffled = h5z.FILTER_SHUFFLE in self._filters
        if out.nbytes < _PARALLEL_BYTES or not unpackable(out.itemsize, shuffled=shuffled):
            return False
        shape = self.height, self.width
        chunks = Chunks.of(places.reshape(-1, 2), shape, rows, columns, out, shuffled=shuffled)
        if chunks is None:
            return False
        descriptor, held = self._descriptor, chunks

        def take(batch: slice) -> None:
            if not held.take(descriptor, batch):
                raise PackingError

        try:
            self._threads.each(take, chunks.batches())
        except PackingError:
            return False
        return True

    def _gather(self, places: NDArray[np.int64], columns: slice, out: Array) -> None:
        """Read plain chunks by a compiled loop."""
        assert self._descriptor is not None
        descriptor, size = self._descriptor, self.width * out.itemsize
        height = max(1, _SHARE_BYTES // size)
        jobs: list[tuple[NDArray[np.int64], slice, Array]] = []
        for across, left in enumerate(self._lefts(columns)):
            start, stop = max(left, columns.start), min(left + self.width, columns.stop)
            hdf5_plain.check_sizes(places[:, across, 1], size)
            addresses = np.ascontiguousarray(places[:, across, 0])
            announce(descriptor, addresses, size + 4)
            part = slice((start - left) * out.itemsize, (stop - left) * out.itemsize)
            target = out[:, start - columns.start : stop - columns.start]
            jobs += (
                (addresses[first : first + height], part, target[first : first + height])
                for first in range(0, len(addresses), height)
            )

        def work(job: tuple[NDArray[np.int64], slice, Array]) -> None:
            addresses, part, target = job
            with at("read"):  # and verify
                hdf5_plain.gather(descriptor, addresses, size, part, target)

        if len(out) * size < _PARALLEL_BYTES:
            for job in jobs:
                work(job)
        else:
            self._threads.each(work, jobs)

    def _lefts(self, columns: slice) -> range:
        """First column of each chunk in a row of a block."""
        return range(columns.start // self.width * self.width, columns.stop, self.width)

    def _row_by_row(self, out: Array) -> bool:
        """Whether to read plain chunks without the library and its lock."""
        if not self.plain or self._descriptor is None or self.height > 1:
            return False
        size = self.width * out.itemsize
        if size % 2 or not out.shape[1]:
            return False
        if size < _DIRECT_BYTES and len(out) * size < _PARALLEL_BYTES:
            return False  # so little, of small chunks, is read as soon by a call of the library
        large = out.nbytes >= checksum.LARGE_BYTES and checksum.prepare()
        return (large or checksum.compiled()) and hdf5_plain.possible()

    def _direct(self, out: Array) -> bool:
        """Whether to read uncompressed chunks without the library and its lock."""
        if self._descriptor is None or self.height * self.width * out.itemsize < _DIRECT_BYTES:
            return False
        return checksum.compiled() or (out.nbytes >= checksum.LARGE_BYTES and checksum.prepare())

    def _fetch(self, corner: tuple[int, int], place: NDArray[np.int64]) -> NDArray[np.uint8]:
        """A chunk as it lies in the file."""
        if self._descriptor is None:
            return np.frombuffer(self._dataset.read_direct_chunk(corner)[1], np.uint8)
        address, size = place.tolist()
        if not 0 < size <= os.fstat(self._descriptor).st_size:
            raise PackingError("the file ends within a chunk")
        stored = scratch("stored", size)
        if os.preadv(self._descriptor, [stored.data], address) != size:
            raise PackingError("the file ends within a chunk")
        return stored


def select(dataset: h5d.DatasetID, block: tuple[slice, ...]) -> h5s.SpaceID:
    """A block of a dataset."""
    space = dataset.get_space()
    start = tuple(part.start for part in block)
    space.select_hyperslab(start, tuple(part.stop - part.start for part in block))
    return space


def in_memory(values: Array, block: tuple[slice, ...], at: int) -> h5s.SpaceID:
    """The part of an array in memory that takes or gives a block, from column ``at`` on."""
    space = h5s.create_simple(values.shape)
    if values.ndim > 1:
        space.select_hyperslab((0, at), (len(values), block[1].stop - block[1].start))
    return space
