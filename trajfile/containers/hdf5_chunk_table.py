"""Which chunks of a lane an HDF5 file holds, and where they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from h5py import h5d
from numpy.typing import NDArray

from trajfile.containers.hdf5_places import stored_chunks

_MAX_CHUNKS_A_ROW = 2**24
#: One beyond the numbers of all chunks, so that there is always a place to look at.
_BEYOND = np.iinfo(np.int64).max


class _Table(NamedTuple):
    """What a file was found to hold.

    Attributes:
        numbers: Of the chunks stored with all their filters applied, sorted, and `_BEYOND`.
        places: Address and stored size of each, int64, shape (len(numbers), 2).
        skipping: Numbers of the others.
    """

    numbers: NDArray[np.int64]
    places: NDArray[np.int64]
    skipping: frozenset[int]


class ChunkTable:
    """The chunks of one dataset of a lane, by rows and columns.

    HDF5 returns zeros for a chunk that is not there: whoever reads asks here first.

    Args:
        dataset: It has two dimensions.
        chunk: Rows and columns of a chunk.
        damaged: Makes the error for what is found wrong, given words and a rule's id.
    """

    def __init__(
        self,
        dataset: h5d.DatasetID,
        chunk: tuple[int, int],
        damaged: Callable[[str, str], Exception],
    ):
        self._dataset = dataset
        self._height, self._width = chunk
        self._damaged = damaged
        self._known: _Table | None = None

    def forget(self) -> None:
        """Forget which chunks exist, because more are being written."""
        self._known = None

    def places(self, rows: slice, columns: slice) -> NDArray[np.int64]:
        """Where the chunks that a block touches lie, all of which must be there.

        Args:
            rows: Contiguous rows.
            columns: Contiguous columns.

        Returns:
            Address and stored size of each, int64, shape (down, across, 2).

        Raises:
            Damaged: If a chunk is missing or skips a filter.
        """
        first = rows.start // self._height
        down = np.arange(first, (rows.stop - 1) // self._height + 1)
        known, numbers, index = self._look_up(down, columns)
        there = known.numbers[index] == numbers
        if not there.all():
            place = int(np.argmin(there.all(axis=1)))
            row = max(rows.start, (first + place) * self._height)
            if known.skipping.intersection(numbers[place].tolist()):
                raise self._damaged(f"a chunk of row {row} skips a filter", "H5-011")
            raise self._damaged(f"a committed chunk of row {row} is missing", "SUM-002")
        return known.places[index]

    def places_of(self, rows: NDArray[np.int64], columns: slice) -> NDArray[np.int64] | None:
        """The same of any rows, where a chunk has one; None if a chunk is missing.

        Args:
            rows: int64, shape (rows,).
            columns: Contiguous columns.

        Returns:
            Address and stored size of each, int64, shape (rows, across, 2).
        """
        known, numbers, index = self._look_up(rows, columns)
        return known.places[index] if (known.numbers[index] == numbers).all() else None

    def _look_up(
        self, down: NDArray[np.int64], columns: slice
    ) -> tuple[_Table, NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of chunks, shape (down, across), and where to look for them in the table."""
        across = np.arange(columns.start // self._width, (columns.stop - 1) // self._width + 1)
        numbers = down[:, None] * _MAX_CHUNKS_A_ROW + across
        known = self._known
        if known is None:
            known = self._known = self._stored()
        return known, numbers, np.searchsorted(known.numbers, numbers)

    def _stored(self) -> _Table:
        found = stored_chunks(self._dataset)
        found = found[found[:, 0] < 2**38]
        bands = found[:, 0] // np.uint64(self._height) * np.uint64(_MAX_CHUNKS_A_ROW)
        numbers = (bands + found[:, 1] // np.uint64(self._width)).astype(np.int64)
        whole = found[:, 2] == 0
        places = np.minimum(found[:, 3:], np.uint64(2**62)).astype(np.int64)
        order = np.flatnonzero(whole)
        order = order[np.argsort(numbers[order], kind="stable")]
        return _Table(
            np.append(numbers[order], _BEYOND),
            np.concatenate([places[order], np.zeros((1, 2), np.int64)]),
            frozenset(numbers[~whole].tolist()),
        )
