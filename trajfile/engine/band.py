"""Products of two row sequences within a sub-block: at one lag, or at many at once.

At a few consecutive lags each left row is multiplied with the window of right rows around it.
At many, rows are taken in blocks, and small dense matrix products follow the band. Both leave
products of rows that lie outside the band in their sums; these are dropped when a tile is done.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trajfile.engine.device import Machine, Sum
from trajfile.engine.schedule import Stretch
from trajfile.engine.shape import WIDE_BAND


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

    def rows(self, stretch: Stretch) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows left_i and right_(i+lag) for a stretch of i."""
        left, right = stretch.start - self.origin[0], stretch.start + stretch.lag - self.origin[1]
        count = stretch.stop - stretch.start
        return part(self.left, left, count), part(self.right, right, count)


def part(rows: torch.Tensor, start: int, count: int) -> torch.Tensor:
    """Some rows; where they are all, PyTorch is not asked for a view."""
    return rows if count == len(rows) else rows[start : start + count]


class NarrowBand:
    """A run of few consecutive lags, all at once.

    Args:
        run: The lags.
        machine: Where.
    """

    def __init__(self, run: tuple[Stretch, ...], machine: Machine) -> None:
        self.run, self.machine = run, machine
        self.start = min(stretch.start for stretch in run)
        self.stop = max(stretch.stop for stretch in run)
        self.sums = machine.zeros((self.stop - self.start, len(run)))

    def add(self, product: Product) -> None:
        """Add the products of a sub-block."""
        left = part(product.left, self.start - product.origin[0], self.stop - self.start)
        right, width = product.right, product.right.shape[1]
        # The first and last windows reach beyond the sequence; the scratch memory around it has
        # a margin for that.
        first = self.start + self.run[0].lag - product.origin[1]
        windows = right.as_strided(
            (len(left), len(self.run), width),
            (width, width, 1),
            right.storage_offset() + first * width,
        )
        self.sums += self.machine.window_dots(left, windows)

    @property
    def nbytes(self) -> int:
        """Bytes of the sums."""
        return int(self.sums.nbytes)

    def add_to(self, total: Sum) -> None:
        """Add what was asked for, and nothing else, to a sum of shape (rows, lags)."""
        for number, stretch in enumerate(self.run):
            part = slice(stretch.start - self.start, stretch.stop - self.start)
            asked = total[stretch.start : stretch.stop, stretch.column]
            asked += self.sums[part, number]


class WideBand:
    """A run of many consecutive lags, by dense products of blocks of rows.

    Args:
        run: The lags.
        machine: Where.
        block: Rows of a block.
    """

    def __init__(self, run: tuple[Stretch, ...], machine: Machine, block: int) -> None:
        self.run = run
        first = min(stretch.start for stretch in run)
        last = max(stretch.stop for stretch in run)
        begin = min(stretch.start + stretch.lag for stretch in run)
        end = max(stretch.stop + stretch.lag for stretch in run)
        self.blocks: list[tuple[int, int, int, int, torch.Tensor]] = []
        for i in range(first, last, block):
            stop = min(i + block, last)
            j, after = max(begin, i + run[0].lag), min(end, stop + run[-1].lag)
            if j < after:
                shape = stop - i, after - j
                zeros = torch.zeros(shape, dtype=torch.float64, device=machine.device)
                self.blocks.append((i, stop, j, after, zeros))

    def add(self, product: Product) -> None:
        """Add the products of a sub-block."""
        for i, stop, j, after, sums in self.blocks:
            left = part(product.left, i - product.origin[0], stop - i)
            right = part(product.right, j - product.origin[1], after - j)
            if left.dtype == sums.dtype:
                sums.addmm_(left, right.T)
            else:
                sums += (left @ right.T).to(sums.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of the sums."""
        return sum(sums.nbytes for *_, sums in self.blocks)

    def add_to(self, total: Sum) -> None:
        """Add what was asked for, and nothing else, to a sum of shape (rows, lags)."""
        for i, stop, j, after, sums in self.blocks:
            dense = sums if isinstance(total, torch.Tensor) else sums.numpy()
            for stretch in self.run:
                a = max(i, stretch.start, j - stretch.lag)
                b = min(stop, stretch.stop, after - stretch.lag)
                if a < b:
                    diagonal = dense.diagonal(stretch.lag + i - j)
                    skipped = min(a - i, a + stretch.lag - j)
                    asked = total[a:b, stretch.column]
                    asked += diagonal[skipped : skipped + b - a]


def new_band(run: tuple[Stretch, ...], machine: Machine, block: int) -> NarrowBand | WideBand:
    """Sums for a run of consecutive lags, to which products are added.

    Args:
        run: The lags.
        machine: Where.
        block: Rows of a dense block, if there are many lags.

    Returns:
        The sums, of nothing yet.
    """
    return NarrowBand(run, machine) if len(run) < WIDE_BAND else WideBand(run, machine, block)
