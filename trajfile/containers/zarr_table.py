"""A table in Zarr: chunks rewritten whole while they fill, the last ones kept in memory."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.folder import Folder
from trajfile.containers.objects import Objects
from trajfile.containers.store import believable_bytes
from trajfile.errors import FormatError

Index = tuple[int, int]

_MAX_LOOKED_AT = 4096
#: Chunks are numbered without gaps; one farther off than all there are and this is not believed.
_GAP = 16


class ZarrTable:
    """One table, seen as two-dimensional.

    Args:
        folder: The array's folder.
        files: What reads the files in it.
        dtype: Of its elements.
        chunk: Shape of a chunk, (rows, columns).
        flat: Whether the array has one dimension.
        fill: Bits of an element that was never written.
        damaged: Makes the error for a chunk of the wrong size.
        unsafe: Makes the error for a table that claims far more than is stored.
        hold: Whether to write over exactly what was loaded, and not over what is there by then.
    """

    def __init__(
        self,
        folder: Path,
        files: Folder | Objects,
        dtype: np.dtype[np.generic],
        chunk: tuple[int, int],
        *,
        flat: bool,
        fill: int,
        damaged: Callable[[str], Exception],
        unsafe: Callable[[str], Exception],
        hold: bool = False,
    ):
        self._folder = folder
        self._files = files
        self._dtype = dtype
        self._chunk = chunk
        self._flat = flat
        self._fill = fill
        self._damaged = damaged
        self._unsafe = unsafe
        self._hold = hold
        self._held: dict[Index, NDArray[np.generic]] = {}
        self._changed: set[Index] = set()

    def load(self, count: int | None, columns: int) -> NDArray[np.generic] | None:
        """The first rows, or all that are stored.

        Args:
            count: How many; None for all.
            columns: How many columns.

        Returns:
            Shape (rows, columns); None if fewer than ``count`` rows are stored.
        """
        height, width = self._chunk
        bands = 0
        while (count is None or bands * height < count) and self._exists((bands, 0)):
            bands += 1
        if count is None:
            bands = self._beyond_gaps(bands)
        elif bands * height < count:
            return None
        rows = bands * height if count is None else count
        across = max(1, -(-columns // width))
        wanted = rows * columns * self._dtype.itemsize
        if wanted > believable_bytes(0):
            looked = itertools.product(range(bands), range(min(across, _MAX_LOOKED_AT)))
            if wanted > believable_bytes(sum(self._stored(place) for place in looked)):
                raise self._unsafe(f"shape ({rows}, {columns}) is far beyond the bytes stored")
        bits = np.full((rows, columns), self._fill, f"<u{self._dtype.itemsize}")
        out = bits.view(self._dtype)
        places = list(itertools.product(range(bands), range(across)))
        self._files.fetch(self._path(place) for place in places if place not in self._held)
        for i, j in places:
            chunk = self._read((i, j))
            if chunk is not None:  # else columns that joined later
                target = out[i * height : (i + 1) * height, j * width : (j + 1) * width]
                target[...] = chunk[: target.shape[0], : target.shape[1]]
                if self._hold and i == bands - 1:
                    self._held[i, j] = chunk
        return out

    def _beyond_gaps(self, bands: int) -> int:
        """Rows of chunks up to the last there is; a lost one between reads as never written."""
        for place in sorted(self._files.bands(self._folder)):
            if place >= bands and place < 2 * bands + _GAP:
                bands = place + 1
            elif place >= bands:
                raise self._damaged(f"chunk {bands} is missing, yet chunk {place} is there")
        return bands

    def salvage(self, columns: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Whatever can be read, and which rows could be; the others are zeros."""
        height, width = self._chunk
        across = max(1, -(-columns // width))
        numbers = self._files.bands(self._folder)
        most = 2 * len(numbers) + _GAP
        bands = max((number + 1 for number in numbers if number < most), default=0)
        shape = (bands * height, across * width)
        stored = sum(file.lstat().st_size for file in self._folder.iterdir()) if numbers else 0
        if math.prod(shape) * self._dtype.itemsize > believable_bytes(stored):
            raise self._unsafe(f"shape {shape} is far beyond the bytes stored")
        out = np.zeros(shape, self._dtype)
        known = np.zeros(bands * height, np.bool_)
        for i in range(bands):
            rows = slice(i * height, (i + 1) * height)
            for j in range(across):
                try:
                    chunk = self._read((i, j))
                except FormatError:
                    chunk = None
                # A chunk of columns to the right is made when something joins there.
                if chunk is None and j == 0:
                    break
                if chunk is None:
                    chunk = self._blank()
                out[rows, j * width : (j + 1) * width] = chunk
                known[rows] = True
        return np.ascontiguousarray(out[:, :columns]), known

    def save(self, start: int, values: NDArray[np.generic]) -> None:
        """Put rows in place in memory, to be written by `flush`."""
        height, width = self._chunk
        stop = start + len(values)
        for i in range(start // height, -(-stop // height)):
            first, last = max(start, i * height), min(stop, (i + 1) * height)
            for j in range(-(-values.shape[1] // width)):
                part = values[first - start : last - start, j * width : (j + 1) * width]
                chunk = self._get((i, j))
                chunk[first - i * height : last - i * height, : part.shape[1]] = part
                self._held[i, j] = chunk
                self._changed.add((i, j))

    def flush(self, folder: Folder | Objects) -> None:
        """Write the chunks that changed, and forget those that are full."""
        for index in sorted(self._changed):
            folder.put(self._path(index), [self._held[index]])
        last = max((i for i, _ in self._held), default=0)
        self._held = {index: chunk for index, chunk in self._held.items() if index[0] == last}
        self._changed.clear()

    def truncate(self, folder: Folder | Objects, rows: int) -> None:
        """Delete the chunks that hold no row before ``rows``."""
        first = -(-rows // self._chunk[0])
        folder.drop_chunks(self._folder, first)
        self._held = {index: chunk for index, chunk in self._held.items() if index[0] < first}

    def _get(self, index: Index) -> NDArray[np.generic]:
        """A chunk to write to: as held, as stored, or new."""
        stored = self._held.get(index)
        if stored is None:
            stored = self._read(index)
        return self._blank() if stored is None else stored

    def _blank(self) -> NDArray[np.generic]:
        bits = np.full(self._chunk, self._fill, f"<u{self._dtype.itemsize}")
        return bits.view(self._dtype)

    def _read(self, index: Index) -> NDArray[np.generic] | None:
        if index in self._held:
            return self._held[index]
        path, due = self._path(index), math.prod(self._chunk) * self._dtype.itemsize
        try:
            size, stored = self._files.look(path)
            with self._files.opened(path) as file:
                if size == due and due > believable_bytes(stored):
                    raise self._unsafe(f"chunk {index[0]} of {due} bytes is almost all holes")
                chunk = np.empty(self._chunk if size == due else 0, self._dtype)
                if size != due or file.readinto(chunk.reshape(-1).view(np.uint8).data) != due:
                    raise self._damaged(f"chunk {index[0]} does not have {due} bytes")
        except FileNotFoundError:
            return None
        return chunk

    def _exists(self, index: Index) -> bool:
        return index in self._held or self._files.holds(self._path(index))

    def _stored(self, index: Index) -> int:
        """Bytes of a chunk on the disk."""
        if index in self._held:
            return self._held[index].nbytes
        try:
            return self._files.look(self._path(index))[1]
        except FileNotFoundError:
            return 0

    def _path(self, index: Index) -> Path:
        return self._folder / (f"c.{index[0]}" if self._flat else f"c.{index[0]}.{index[1]}")
