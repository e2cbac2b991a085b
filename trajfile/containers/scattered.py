"""Rows that still lie tensor by tensor where they came from, copied only where they are written.

Laying a row end to end first would take as much memory as it has, and a pass over it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trajfile.dtypes import bits_of


class Scattered:
    """Rows of a lane, in parts.

    Args:
        shape: Rows and columns.
        dtype: Of the elements.
        parts: First column and elements, shape (rows, columns), of each part, in the order of
            columns; columns in between are zero.
    """

    ndim = 2

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: np.dtype[np.generic],
        parts: Sequence[tuple[int, NDArray[np.generic]]],
    ):
        self.shape, self.dtype = shape, dtype
        self.nbytes = shape[0] * shape[1] * dtype.itemsize
        # An empty part begins where the next one does, and would hide it.
        self._starts = [start for start, part in parts if part.shape[1]]
        self._bits = [bits_of(part) for _, part in parts if part.shape[1]]

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def copy(self, rows: slice, columns: slice, out: NDArray[np.generic]) -> None:
        """Copy a block, bit for bit.

        Args:
            rows: Contiguous rows.
            columns: Contiguous columns.
            out: Unsigned integers of the dtype's size, shape (rows, columns).
        """
        at = columns.start
        number = max(0, bisect_right(self._starts, at) - 1)
        while number < len(self._starts) and self._starts[number] < columns.stop:
            start, part = self._starts[number], self._bits[number]
            first, last = max(start, columns.start), min(start + part.shape[1], columns.stop)
            if first < last:
                if at < first:
                    out[:, at - columns.start : first - columns.start] = 0
                taken = part[rows, first - start : last - start]
                out[:, first - columns.start : last - columns.start] = taken
                at = last
            number += 1
        if at < columns.stop:
            out[:, at - columns.start :] = 0

    def first(self, columns: int) -> Scattered:
        """The same rows, cut after so many columns."""
        parts = zip(self._starts, self._bits, strict=True)
        return Scattered((self.shape[0], columns), self.dtype, list(parts))


def copy_block(
    values: NDArray[np.generic] | Scattered,
    rows: slice,
    columns: slice,
    out: NDArray[np.generic],
) -> None:
    """Copy a block of rows, however they lie, bit for bit.

    Args:
        values: The rows.
        rows: Contiguous rows.
        columns: Contiguous columns.
        out: Unsigned integers of the dtype's size, shape (rows, columns).
    """
    if isinstance(values, Scattered):
        values.copy(rows, columns, out)
    else:
        out[...] = bits_of(values)[rows, columns]


def fill_chunk(
    values: NDArray[np.generic] | Scattered,
    rows: slice,
    columns: slice,
    chunk: NDArray[np.generic],
) -> None:
    """Copy a block of rows into a chunk, from its corner on; the rest of it becomes zeros.

    Args:
        values: The rows.
        rows: Contiguous rows, up to the height of a chunk.
        columns: Contiguous columns, up to its width.
        chunk: Unsigned integers of the dtype's size, shape (height, width).
    """
    target = chunk[: rows.stop - rows.start, : columns.stop - columns.start]
    if target.shape != chunk.shape:
        chunk[...] = 0
    copy_block(values, rows, columns, target)


def laid_out(rows: NDArray[np.generic] | Scattered) -> NDArray[np.generic]:
    """Rows end to end: shape (rows, columns), those of a `Scattered` in fresh memory."""
    if not isinstance(rows, Scattered):
        return rows
    out = np.empty(rows.shape, rows.dtype)
    rows.copy(slice(0, len(rows)), slice(0, rows.shape[1]), bits_of(out))
    return out
