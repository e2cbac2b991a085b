"""Writing whole chunks of a lane as they are to lie in an HDF5 file, with their checksums.

The library copies each chunk into fresh memory, and again behind its checksum, and computes that
more slowly than memory takes it; and it compresses one chunk at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from h5py import h5d
from numpy.typing import NDArray

from trajfile.containers import ahead, checksum
from trajfile.containers.ahead import Bytes
from trajfile.containers.base import Given
from trajfile.containers.hdf5_lanes import Lane
from trajfile.containers.scattered import fill_chunk

#: Smaller chunks are written faster by one call of the library than one by one.
DIRECT_BYTES = 2**16
_CHECKSUM_BYTES = 4


class DirectWriter:
    """Writes whole chunks of lanes, compressed or not."""

    def __init__(self) -> None:
        self._wanted = 0  # bytes

    def suits(self, lane: Lane, values: Given) -> bool:
        """Whether rows of a lane are better written this way.

        Args:
            lane: The lane.
            values: The rows.

        Returns:
            False for chunks that are small, and for uncompressed ones until much was written:
            loading the compiler takes time.
        """
        size = lane.height * lane.width * values.dtype.itemsize
        packed = lane.compression is not None
        if size < DIRECT_BYTES or not (packed or (lane.plain and size % 2 == 0)):
            return False
        if packed:  # compiled or not, checksums take little of the time
            return ahead.PACKERS > 1 or checksum.compiled()
        self._wanted += values.nbytes
        return checksum.compiled() or (self._wanted >= checksum.LARGE_BYTES and checksum.prepare())

    def write(
        self,
        dataset: h5d.DatasetID,
        lane: Lane,
        corner: tuple[int, int],
        values: Given,
        columns: slice,
    ) -> None:
        """Write a block over whatever is there.

        Args:
            dataset: One of a lane.
            lane: What is known of its chunks; it `suits`.
            corner: Row and column where the block begins, and a chunk with it. The block ends
                where a chunk does, or nothing follows: the rest of a chunk becomes zeros.
            values: Shape (rows, columns).
            columns: Which of them make up the block.
        """
        chunk = height, width = lane.height, lane.width
        dtype = np.dtype(f"<u{values.dtype.itemsize}")
        size = height * width * dtype.itemsize
        places = [
            (top, left)
            for top in range(0, len(values), height)
            for left in range(columns.start, columns.stop, width)
        ]

        def fill(number: int, tile: NDArray[Any]) -> None:
            top, left = places[number]
            rows = slice(top, min(top + height, len(values)))
            part = slice(left, min(left + width, columns.stop))
            fill_chunk(values, rows, part, tile)

        def plain(number: int, stored: Bytes) -> Bytes:
            payload, behind = stored[:size], stored[size:]
            fill(number, payload.view(dtype).reshape(chunk))
            behind.view("<u4")[0] = checksum.fletcher32(payload)
            return stored

        def packed(number: int, memory: Bytes) -> bytes:
            tile = memory[:size].view(dtype).reshape(chunk)
            fill(number, tile)
            return lane.encode(tile, memory[size:])

        count = len(places)
        made: Iterator[Bytes | bytes] = (
            ahead.built(plain, count, size + _CHECKSUM_BYTES)
            if lane.compression is None
            else ahead.built(packed, count, 2 * size, packing=True)
        )
        row, column = corner[0], corner[1] - columns.start
        for (top, left), stored in zip(places, made, strict=True):
            dataset.write_direct_chunk((row + top, column + left), stored)
