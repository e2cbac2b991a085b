"""Reading blocks of a lane from HDF5: every chunk must be there, and match its checksum."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from h5py import h5d, h5s
from numpy.typing import NDArray

from trajfile.containers.base import Array
from trajfile.containers.hdf5_chunks import compression_of, decode_chunk
from trajfile.containers.packing import PackingError

_THREADS = 4
_PARALLEL_BYTES = 2**21
_MAX_CHUNKS_A_ROW = 2**24


class Lane:
    """One dataset of a lane.

    Args:
        dataset: Its chunks are (1, w); in an archive (h, w).
        filters: Ids of its filters, in order.
        damaged: Makes the error for what is found wrong, given words and a rule's id.
    """

    def __init__(
        self,
        dataset: h5d.DatasetID,
        filters: tuple[int, ...],
        damaged: Callable[[str, str], Exception],
    ):
        self.height, self.width = (int(n) for n in dataset.get_create_plist().get_chunk())
        self.compression = compression_of(filters)
        self._dataset = dataset
        self._filters = filters
        self._damaged = damaged
        self._present: NDArray[np.int64] | None = None
        self._skipping: set[int] = set()  # chunks that are stored without their checksum

    def forget(self) -> None:
        """Forget which chunks exist, because more are being written."""
        self._present = None

    def read(self, rows: slice, columns: slice, out: Array, at: int) -> None:
        """Read a block into ``out``, from its column ``at`` on.

        Args:
            rows: Contiguous rows.
            columns: Contiguous columns of this dataset.
            out: C-contiguous, as many rows, unsigned integers of the dtype's size.
            at: First column of ``out`` to fill.
        """
        shape = self._dataset.shape
        if rows.stop > shape[0] or columns.stop > shape[1]:
            raise self._damaged(f"has only shape {shape}", "COM-002")
        self._check_present(rows, columns)
        try:
            if self.compression is None:
                space = select(self._dataset, (rows, columns))
                memory = in_memory(out, (rows, columns), at)
                self._dataset.read(memory, space, out, self._dataset.get_type())
            else:
                self._unpack(rows, columns, out[:, at : at + columns.stop - columns.start])
        except PackingError as error:
            raise self._damaged(str(error), "SUM-003") from error
        except (OSError, RuntimeError) as error:
            what = "a chunk fails its checksum or cannot be read"
            raise self._damaged(what, "SUM-003") from error

    def _unpack(self, rows: slice, columns: slice, out: Array) -> None:
        """Read compressed chunks, decoding several at a time."""

        def unpack(place: tuple[int, int]) -> None:
            top, left = place
            first, last = max(top, rows.start), min(top + self.height, rows.stop)
            start, stop = max(left, columns.start), min(left + self.width, columns.stop)
            chunk = np.empty(self.height * self.width, out.dtype)
            _, stored = self._dataset.read_direct_chunk((top, left))
            decode_chunk(stored, self._filters, chunk)
            tile = chunk.reshape(self.height, self.width)[first - top : last - top]
            target = out[first - rows.start : last - rows.start]
            target[:, start - columns.start : stop - columns.start] = tile[
                :, start - left : stop - left
            ]

        lefts = range(columns.start // self.width * self.width, columns.stop, self.width)
        tops = range(rows.start // self.height * self.height, rows.stop, self.height)
        places = [(top, left) for top in tops for left in lefts]
        if len(places) == 1 or out.nbytes < _PARALLEL_BYTES:
            for place in places:
                unpack(place)
            return
        with ThreadPoolExecutor(_THREADS, "trajfile-hdf5") as pool:
            for _ in pool.map(unpack, places):
                pass

    def _check_present(self, rows: slice, columns: slice) -> None:
        """HDF5 returns zeros for a chunk that is not there; look before reading."""
        across = np.arange(columns.start // self.width, (columns.stop - 1) // self.width + 1)
        down = np.arange(rows.start // self.height, (rows.stop - 1) // self.height + 1)
        wanted = down[:, None] * _MAX_CHUNKS_A_ROW + across
        if self._present is None:
            self._present = self._stored_chunks()
        # One beyond all chunks, so that there is always a place to look at.
        known = np.append(self._present, np.iinfo(np.int64).max)
        found = np.all(known[np.searchsorted(known, wanted)] == wanted, axis=1)
        if not found.all():
            place = int(np.argmin(found))
            row = max(rows.start, int(down[place]) * self.height)
            if self._skipping.intersection(wanted[place].tolist()):
                raise self._damaged(f"a chunk of row {row} skips a filter", "H5-011")
            raise self._damaged(f"a committed chunk of row {row} is missing", "SUM-002")

    def _stored_chunks(self) -> NDArray[np.int64]:
        """Sorted numbers of the chunks that are stored with all their filters applied."""
        numbers: list[int] = []

        def note(chunk: h5d.StoreInfo) -> None:
            row, column = chunk.chunk_offset
            if row < 2**38:
                number = row // self.height * _MAX_CHUNKS_A_ROW + column // self.width
                numbers.append(number) if chunk.filter_mask == 0 else self._skipping.add(number)

        self._skipping.clear()
        self._dataset.chunk_iter(note)
        return np.sort(np.array(numbers, np.int64))


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
