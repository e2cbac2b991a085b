"""Reading an archive row by row without decoding each of its tiles once for every row.

A chunk of an archive spans several rows, and is decoded whole. Who reads its rows one after
another, as a digest does or a loop over steps, gets the first from the disk and the others from
here. What is kept is bounded: 64 MiB of memory for a trajectory and, where a row is too long for
that and reading began at the top of its tiles, a nameless temporary file. Where there is no room,
tiles are decoded again.
"""

from __future__ import annotations

import os
import tempfile
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array
from trajfile.containers.store import ArrayStore
from trajfile.errors import FormatError

#: What decoded tiles may take of memory, and of the disk.
MEMORY_BYTES = 64 * 2**20
DISK_BYTES = 4 * 2**30


class _Place(NamedTuple):
    """Which rows and columns of which lane."""

    key: str
    band: int
    column: int


class Tiles:
    """Reads blocks of lanes, and keeps tiles of which only some rows were wanted.

    Several threads may read at once.

    Args:
        store: The archive's arrays.
    """

    def __init__(self, store: ArrayStore):
        self._store = store
        self._lock = Lock()
        self._held: dict[_Place, NDArray[Any]] = {}
        self._memory = self._disk = 0

    def read(self, key: str, rows: slice, columns: slice, out: Array, most: int) -> None:
        """Fill ``out`` from a lane, as the store does.

        Args:
            key: The lane.
            rows: Contiguous rows.
            columns: Contiguous columns.
            out: C-contiguous unsigned integers, shape (rows, columns).
            most: How many rows the lane has.
        """
        tile = self._store.tile(key)
        if tile is None or not out.size:
            self._store.read(key, rows, columns, out)
            return
        height, width = tile
        row = rows.start
        while row < rows.stop:
            top = row // height * height
            bottom = min(top + height, most)
            target = out[row - rows.start :]
            if row == top and rows.stop >= bottom:  # whole tiles, as many as there are
                last = rows.stop if rows.stop == most else rows.stop // height * height
                self._store.read(key, slice(row, last), columns, target[: last - row])
                row = last
                continue
            last = min(rows.stop, bottom)
            self._read_some(
                key, slice(row, last), columns, target[: last - row], slice(top, bottom), width
            )
            row = last

    def forget(self) -> None:
        """Keep nothing."""
        with self._lock:
            self._drop(list(self._held))

    def _read_some(
        self, key: str, rows: slice, columns: slice, out: Array, band: slice, width: int
    ) -> None:
        """Some rows of one band of tiles."""
        lefts = range(columns.start // width * width, columns.stop, width)
        with self._lock:
            held = {left: self._held.get(_Place(key, band.start, left)) for left in lefts}
        missing = [left for left in lefts if held[left] is None]
        if missing:
            # All that lies between is read too: tiles are kept and dropped together.
            whole = slice(missing[0], min(missing[-1] + width, self._store.columns(key)))
            shape = (band.stop - band.start, whole.stop - whole.start)
            block = self._room(key, band.start, shape, out.dtype, in_order=rows.start == band.start)
            if block is None:
                self._store.read(key, rows, columns, out)
                return
            try:
                self._store.read(key, band, whole, block)
            except FormatError:
                with self._lock:
                    self._let_go(block)
                self._store.read(key, rows, columns, out)  # fails over the rows that were asked for
                return
            with self._lock:
                for left in range(whole.start, whole.stop, width):
                    place = _Place(key, band.start, left)
                    self._drop([place])  # another thread's, or one between those missing
                    at = left - whole.start
                    self._held[place] = held[left] = block[:, at : at + width]
        for left in lefts:
            start, stop = max(left, columns.start), min(left + width, columns.stop)
            found = held[left]
            assert found is not None
            part = found[
                rows.start - band.start : rows.stop - band.start, start - left : stop - left
            ]
            out[:, start - columns.start : stop - columns.start] = part
        if rows.stop == band.stop:
            with self._lock:
                self._drop([_Place(key, band.start, left) for left in lefts])

    def _room(
        self, key: str, band: int, shape: tuple[int, int], dtype: np.dtype[Any], *, in_order: bool
    ) -> NDArray[Any] | None:
        """An array for tiles that are to be kept; None if there is no room for them."""
        size = shape[0] * shape[1] * dtype.itemsize
        with self._lock:
            # Of a lane that is read in order, only one band is being read.
            self._drop([p for p in self._held if p.key == key and p.band != band])
            if self._memory + size > MEMORY_BYTES:
                self._drop([p for p in self._held if p.key != key])
            if self._memory + size <= MEMORY_BYTES:
                self._memory += size
                return np.empty(shape, dtype)
            if not in_order or self._disk + size > DISK_BYTES:
                return None
            self._disk += size
        found = _on_disk(shape, dtype)
        if found is None:
            with self._lock:
                self._disk -= size
        return found

    def _drop(self, places: list[_Place]) -> None:
        for place in places:
            tile = self._held.pop(place, None)
            if tile is not None:
                self._let_go(tile)

    def _let_go(self, tile: NDArray[Any]) -> None:
        if isinstance(tile, np.memmap):
            self._disk -= tile.nbytes
        else:
            self._memory -= tile.nbytes


def _on_disk(shape: tuple[int, int], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """An array in a file that has no name and is gone with it; None where there is no room."""
    try:
        with tempfile.TemporaryFile(prefix="trajfile-tiles-") as file:
            # All of it now: a disk that is full when a mapped page is written ends the process.
            os.posix_fallocate(file.fileno(), 0, shape[0] * shape[1] * dtype.itemsize)
            return np.memmap(file, dtype, "r+", shape=shape)
    except (OSError, AttributeError):
        return None
