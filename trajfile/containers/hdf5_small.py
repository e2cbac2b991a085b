"""Reading many small chunks of an HDF5 file: whole stretches of the file, then chunk by chunk.

A call of the system and a few of Python for each chunk cost more than reading and verifying one of
a few KiB. The chunks of consecutive steps lie near one another, those of the other streams between
them; so a stretch is read at once, and one compiled loop verifies and copies what is wanted of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trajfile.containers import checksum
from trajfile.containers.base import Array
from trajfile.containers.packing import PackingError
from trajfile.containers.scratch import scratch
from trajfile.stopwatch import at

#: Bytes of a stretch: enough that calls don't count, few enough to stay in the cache.
STRETCH_BYTES = 2**20
#: Bytes between two chunks that are rather read than skipped.
_GAP_BYTES = 2**15


class Small:
    """Chunks of one size, each to be copied in part to a row of its own.

    Args:
        places: Address and size of each chunk, int64, shape (chunks, 2).
        size: Bytes that each is to have, without its checksum.
        part: Which bytes of each are wanted.
        out: Where they go, unsigned integers, shape (chunks, columns), rows contiguous.
    """

    def __init__(self, places: NDArray[np.int64], size: int, part: slice, out: Array) -> None:
        wrong = places[:, 1] != size + 4
        if wrong.any():
            found = int(places[np.argmax(wrong), 1])
            raise PackingError(f"a chunk has {found} bytes where {size + 4} are due")
        self.order = np.argsort(places[:, 0], kind="stable")
        self.starts = np.ascontiguousarray(places[self.order, 0])
        self.size, self.part, self.out = size, part, out

    @staticmethod
    def fits(places: NDArray[np.int64], item: int) -> bool:
        """Whether chunks can be read this way: if elements and addresses are even."""
        return item % 2 == 0 and not (places[:, 0] % 2).any()

    def stretches(self) -> Iterator[tuple[int, int]]:
        """Ranges of chunks, in the order of their addresses, that are read at once."""
        far = np.flatnonzero(np.diff(self.starts) > self.size + 4 + _GAP_BYTES) + 1
        for first, last in zip([0, *far.tolist()], [*far.tolist(), len(self.starts)], strict=True):
            start = first
            while start < last:
                limit = self.starts[start] + STRETCH_BYTES
                stop = int(np.searchsorted(self.starts[start:last], limit, "right")) + start
                yield start, stop
                start = stop

    def read(self, descriptor: int, stretch: tuple[int, int]) -> None:
        """Read one of `stretches`.

        Args:
            descriptor: The file.
            stretch: Which.

        Raises:
            PackingError: If the file is too short, or a chunk fails its checksum.
        """
        chunks = slice(*stretch)
        starts = self.starts[chunks] - self.starts[stretch[0]]
        region = scratch("stretch", int(starts[-1]) + self.size + 4)
        with at("read"):
            count = os.preadv(descriptor, [region.data], int(self.starts[stretch[0]]))
        if count != len(region):
            raise PackingError("the file ends within a chunk")
        with at("verify"):
            rows = np.ascontiguousarray(self.order[chunks])
            if not checksum.scatter(region, starts, rows, self.size, self.part, self.out):
                raise PackingError("a chunk fails its checksum")
