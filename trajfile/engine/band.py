"""Products of two row sequences at many lags, as small matrix products along the band."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trajfile.engine.device import Machine

#: Rows of one small matrix product, for narrow and for wide bands.
_NARROW_BLOCK, _WIDE_BLOCK = 8, 16
_WIDE_BAND = 24


@dataclass(frozen=True, eq=False)
class Product:
    """Two sequences formed within a sub-block.

    Attributes:
        left: Rows on the left, shape (rows, columns).
        right: Rows on the right.
        origin: The row numbers of their first rows.
        columns: The columns of the strip that they hold.
    """

    left: torch.Tensor
    right: torch.Tensor
    origin: tuple[int, int]
    columns: tuple[int, int]

    def rows(
        self, machine: Machine, lag: int, start: int, stop: int, a: int, b: int
    ) -> torch.Tensor:
        """<left_i, right_(i+lag)> for i in [start, stop) over columns [a, b), float64."""
        cut = slice(a - self.columns[0], b - self.columns[0])
        left = self.left[start - self.origin[0] : stop - self.origin[0], cut]
        right = self.right[start + lag - self.origin[1] : stop + lag - self.origin[1], cut]
        return machine.row_dots(left, right)


class BandProducts:
    """A band of products in a tile, as small dense matrix products along it.

    Args:
        lags: (column of the sum, lag, first left row, one past the last) for each lag.
        device: Where.
    """

    def __init__(self, lags: list[tuple[int, int, int, int]], device: torch.device) -> None:
        self.lags = lags
        least, most = min(lag for _, lag, _, _ in lags), max(lag for _, lag, _, _ in lags)
        first = min(start for _, _, start, _ in lags)
        last = max(stop for _, _, _, stop in lags)
        end = max(stop + lag for _, lag, _, stop in lags)
        begin = min(start + lag for _, lag, start, _ in lags)
        size = _WIDE_BLOCK if most - least >= _WIDE_BAND else _NARROW_BLOCK
        self.blocks: list[tuple[int, int, int, int, torch.Tensor]] = []
        for i in range(first, last, size):
            stop = min(i + size, last)
            j, after = max(begin, i + least), min(end, stop - 1 + most + 1)
            if j < after:
                zeros = torch.zeros((stop - i, after - j), dtype=torch.float64, device=device)
                self.blocks.append((i, stop, j, after, zeros))

    def add(self, product: Product) -> None:
        """Add the products of a sub-block."""
        for i, stop, j, after, sums in self.blocks:
            left = product.left[i - product.origin[0] : stop - product.origin[0]]
            right = product.right[j - product.origin[1] : after - product.origin[1]]
            if left.dtype == sums.dtype:
                sums.addmm_(left, right.T)
            else:
                sums += (left @ right.T).to(sums.dtype)

    def add_to(self, total: torch.Tensor, first: tuple[int, int]) -> None:
        """Add what lies within the band, and nothing else, to a sum of shape (rows, lags)."""
        for i, stop, j, after, sums in self.blocks:
            for column, lag, start, end in self.lags:
                a = max(i, start, j - lag, first[0], first[1] - lag)
                b = min(stop, end, after - lag)
                if a < b:
                    diagonal = torch.diagonal(sums, offset=a + lag - j - (a - i))
                    skipped = min(a - i, a + lag - j)
                    total[a:b, column] += diagonal[skipped : skipped + b - a]
