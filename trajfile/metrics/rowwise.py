"""Statistics of many series at once, one a row, such as one of each tensor.

A report holds thousands of figures of some hundred values each. Taken one by one, nearly all of
the time goes into calling NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Row
from trajfile.metrics.windows import windows_of
from trajfile.report import TensorResult

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """The finite values of each of n series, in order.

    Attributes:
        values: float64, shape (n, m): each row's own first, zeros behind them.
        counts: How many are the row's own, int64, shape (n,).
    """

    values: Float
    counts: NDArray[np.int64]

    @cached_property
    def inside(self) -> Mask:
        """Which of `values` are the rows' own."""
        return np.arange(self.values.shape[1]) < self.counts[:, None]

    @cached_property
    def full(self) -> bool:
        """Whether all of them are."""
        return bool((self.counts == self.values.shape[1]).all())

    @cached_property
    def means(self) -> Float:
        """The mean of each row; NaN of an empty one."""
        return _over(self.values.sum(axis=1), self.counts)

    @cached_property
    def centred(self) -> Float:
        """The values less their row's mean; zeros behind them."""
        values = self.values - self.means[:, None]
        return values if self.full else np.where(self.inside, values, 0.0)

    @cached_property
    def deviations(self) -> Float:
        """The population standard deviation of each row; NaN of an empty one."""
        return np.sqrt(_over((self.centred**2).sum(axis=1), self.counts))

    @cached_property
    def windows(self) -> Float:
        """How many independent values each row is worth; see `trajfile.metrics.windows`."""
        differs = self.values[:, 1:] != self.values[:, :-1]
        if not self.full:
            differs &= self.inside[:, 1:]
        return windows_of(self.centred, self.counts, ~differs.any(axis=1))

    @cached_property
    def ordered(self) -> Float:
        """The values of each row in increasing order, infinities behind them."""
        return np.sort(self.values if self.full else np.where(self.inside, self.values, np.inf))

    @cached_property
    def medians(self) -> Float:
        """The median of each row; NaN of an empty one."""
        low, high = self.at((self.counts - 1) // 2), self.at(self.counts // 2)
        return np.where(self.counts % 2, low, (low + high) / 2)

    def at(self, place: NDArray[np.int64]) -> Float:
        """A place of each row's `ordered`.

        Args:
            place: int64, shape (n,), below the row's count.

        Returns:
            float64, shape (n,); NaN of an empty row.
        """
        if not self.values.shape[1]:
            return np.full(len(self.counts), np.nan)
        found = self.ordered[np.arange(len(place)), place]
        return found if self.full else np.where(self.counts > 0, found, np.nan)

    def at_quantile(self, share: Float) -> Float:
        """A quantile of each row, interpolated linearly as NumPy does.

        Args:
            share: Of the values below it, in [0, 1], float64, shape (n,).

        Returns:
            float64, shape (n,); NaN of an empty row.
        """
        last = np.maximum(self.counts - 1, 0)
        place = share * last
        below = place.astype(np.int64)
        low, high = self.at(below), self.at(np.minimum(below + 1, last))
        return low + (place - below) * (high - low)


def rows(values: Float) -> Rows:
    """Leave out what is not finite.

    Args:
        values: float64, shape (n, m).

    Returns:
        What is left of each row.
    """
    known = np.isfinite(values)
    counts = known.sum(axis=1)
    if known.all():
        return Rows(values, counts)
    if (known == known[:1]).all():
        return Rows(np.compress(known[0], values, axis=1), counts)
    order = np.argsort(~known, axis=1, kind="stable")[:, : counts.max()]
    moved = np.take_along_axis(values, order, axis=1)
    return Rows(np.where(np.arange(moved.shape[1]) < counts[:, None], moved, 0.0), counts)


def firsts(values: Float) -> Float:
    """The first finite value of each row; NaN if there is none. Shapes (n, m) and (n,)."""
    known = np.isfinite(values)
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    found = values[np.arange(len(values)), np.argmax(known, axis=1)]
    return np.where(known.any(axis=1), found, np.nan)


def lasts(values: Float) -> Float:
    """The last finite value of each row; NaN if there is none. Shapes (n, m) and (n,)."""
    return firsts(values[:, ::-1])


def largests(values: Float) -> Float:
    """The largest finite value of each row; NaN if there is none. Shapes (n, m) and (n,)."""
    known = np.isfinite(values)
    found = np.max(values, axis=1, initial=-np.inf, where=known)
    return np.where(known.any(axis=1), found, np.nan)


def of_tensors(
    measured: Measurements, left: Row, right: Row, names: Sequence[str] | None = None
) -> tuple[list[str], Float]:
    """The inner products of single tensors, a row of each.

    Args:
        measured: The measurements.
        left: Rows on the left, as declared with ``per_tensor``.
        right: Rows on the right, as declared with ``per_tensor``.
        names: Of which tensors; by default of all there are.

    Returns:
        The names of those that were kept, and float64, shape (tensors, rows of the timeline).
    """
    band = measured.band(left, right)
    kept = band.tensors
    found = list(kept) if names is None else [name for name in names if name in kept]
    if not found:
        return [], np.empty((0, len(band.total)))
    column = band.tensor_column(0)
    values = np.concatenate([kept[name][:, column] for name in found])
    return found, values.reshape(len(found), -1)


def results(names: Sequence[str], columns: Mapping[str, Sequence[Any]]) -> dict[str, TensorResult]:
    """What a metric says of each tensor, from what it says of all under each name.

    Args:
        names: Of the tensors.
        columns: Under each name the values, one of each tensor.

    Returns:
        By tensor.
    """
    lines = zip(*columns.values(), strict=True)
    return {
        name: TensorResult(dict(zip(columns, line, strict=True)))
        for name, line in zip(names, lines, strict=True)
    }


def _over(sums: Float, counts: NDArray[np.int64]) -> Float:
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts)  # 0/0 is NaN
