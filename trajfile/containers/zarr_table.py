"""A table in Zarr: chunks rewritten whole while they fill, the last ones kept in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.folder import Folder
from trajfile.containers.regular import open_regular

Index = tuple[int, int]


class ZarrTable:
    """One table, seen as two-dimensional.

    Args:
        folder: The array's folder.
        dtype: Of its elements.
        chunk: Shape of a chunk, (rows, columns).
        flat: Whether the array has one dimension.
        fill: Bits of an element that was never written.
        damaged: Makes the error for a chunk of the wrong size.
    """

    def __init__(
        self,
        folder: Path,
        dtype: np.dtype[np.generic],
        chunk: tuple[int, int],
        *,
        flat: bool,
        fill: int,
        damaged: Callable[[str], Exception],
    ):
        self._folder = folder
        self._dtype = dtype
        self._chunk = chunk
        self._flat = flat
        self._fill = fill
        self._damaged = damaged
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
        bands: list[NDArray[np.generic]] = []
        while count is None or len(bands) * height < count:
            if self._read((len(bands), 0)) is None:
                break
            chunks = [self._get((len(bands), j)) for j in range(max(1, -(-columns // width)))]
            bands.append(np.concatenate(chunks, axis=1)[:, :columns])
        if count is not None and len(bands) * height < count:
            return None
        return np.concatenate([np.empty((0, columns), self._dtype), *bands])[:count]

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

    def flush(self, folder: Folder) -> None:
        """Write the chunks that changed, and forget those that are full."""
        for index in sorted(self._changed):
            folder.put(self._path(index), [self._held[index]])
        last = max((i for i, _ in self._held), default=0)
        self._held = {index: chunk for index, chunk in self._held.items() if index[0] == last}
        self._changed.clear()

    def truncate(self, folder: Folder, rows: int) -> None:
        """Delete the chunks that hold no row before ``rows``."""
        folder.drop_chunks(self._folder, -(-rows // self._chunk[0]))

    def _get(self, index: Index) -> NDArray[np.generic]:
        """A chunk to write to: as held, as stored, or new."""
        stored = self._held.get(index)
        if stored is None:
            stored = self._read(index)
        if stored is not None:
            return stored
        bits = np.full(self._chunk, self._fill, f"<u{self._dtype.itemsize}")
        return bits.view(self._dtype)

    def _read(self, index: Index) -> NDArray[np.generic] | None:
        if index in self._held:
            return self._held[index]
        chunk = np.empty(self._chunk, self._dtype)
        try:
            descriptor = open_regular(self._path(index), follow=False)
        except FileNotFoundError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(chunk.nbytes + 1)
        if len(data) != chunk.nbytes:
            raise self._damaged(f"chunk {index[0]} does not have {chunk.nbytes} bytes")
        return np.frombuffer(bytearray(data), self._dtype).reshape(self._chunk)

    def _path(self, index: Index) -> Path:
        return self._folder / (f"c.{index[0]}" if self._flat else f"c.{index[0]}.{index[1]}")
