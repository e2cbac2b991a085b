"""One piece of memory for all that a pass on the processor holds of rows.

Compiled kernels then need one array and an offset to name any row, wherever it lies.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from trajfile.memory import cleared

_ALIGNMENT = 64


class Arena:
    """Memory of a fixed size, given away piece by piece.

    Args:
        size: Bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = -(-size // _ALIGNMENT) * _ALIGNMENT
        # A sub-block of columns touches every row of a tile, and each row lies in other pages.
        self._memory = cleared(self._size)
        self._used = 0

    def take(self, size: int) -> torch.Tensor:
        """The next `size` bytes, zero, uint8, aligned to 64.

        Args:
            size: How many.

        Returns:
            The bytes.

        Raises:
            MemoryError: If the arena is used up, a mistake in planning.
        """
        start = self._used
        self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
        if self._used > self._size:
            raise MemoryError("the pass takes more memory than was planned")
        return torch.from_numpy(self._memory[start : start + size])

    def offset(self, piece: torch.Tensor) -> int:
        """How many float32 numbers lie ahead of a piece that was taken."""
        return (piece.data_ptr() - self._memory.ctypes.data) // 4

    def view(self, dtype: type[np.generic]) -> NDArray[np.generic]:
        """All of it, as numbers of one type."""
        return self._memory.view(dtype)


def padded(*sizes: int) -> int:
    """Bytes that pieces of these sizes take of an arena."""
    return sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)
