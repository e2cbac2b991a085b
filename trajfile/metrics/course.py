"""The course of a positive noisy quantity over a run: blocks, changes, and the last trend."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.metrics.changes import Change, find_changes
from trajfile.metrics.intervals import effective_windows, student
from trajfile.metrics.robust import trend

Float = NDArray[np.float64]

_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Stretch:
    """The logarithm of a positive quantity over the last blocks of a run.

    Attributes:
        values: The blocks, float64, shape (n,), n >= 3.
        change: Theil-Sen change of the logarithm from the first block to the last.
        error: Standard error of it: that of a line's end-to-end difference, √(12/windows) times
            the spread about the line, the windows being the effective ones of what is left.
        windows: Their number.
        z: Mann-Kendall statistic, in standard deviations.
        pieces: Averages over parts of the stretch, as few as the word rests on at least, so that
            finer blocks do not scatter more.
    """

    values: Float
    change: float
    error: float
    windows: float
    z: float
    pieces: Float

    @property
    def level(self) -> float:
        """Median of the blocks."""
        return float(np.median(self.values))

    @property
    def factor(self) -> float:
        """From one end to the other, by the trend."""
        return _exp(self.change)

    @property
    def factor_interval(self) -> list[float] | None:
        """95 % interval of it; None with fewer than two windows."""
        half = student(self.windows) * self.error
        if not math.isfinite(half):
            return None
        return [_exp(self.change - half), _exp(self.change + half)]

    def falls(self, significance: float, part: float) -> bool:
        """Whether it loses at least `part` of itself, beyond chance of either kind."""
        sure = self.z <= -significance and self.change <= -significance * self.error
        return sure and self.factor <= 1 - part

    def flat(self, change: float, spread: float) -> bool:
        """Whether neither its trend nor its scatter leaves the level."""
        steady = abs(self.change) <= math.log1p(change)
        return steady and float(np.ptp(_log(self.pieces))) <= math.log(spread)

    def for_good(self, holds: NDArray[np.bool_]) -> int | None:
        """First block from which something holds in all pieces, if that is half of them or more.

        Args:
            holds: Whether it does in each of `pieces`.

        Returns:
            The block, counted from the start of the stretch; None if there is none.
        """
        broken = np.flatnonzero(~holds)
        piece = int(broken[-1]) + 1 if len(broken) else 0
        if 2 * piece > len(holds):
            return None
        return int(np.array_split(np.arange(len(self.values)), len(self.pieces))[piece][0])


@dataclass(frozen=True)
class Course:
    """A positive quantity by blocks of rows.

    Attributes:
        values: One per block, float64, shape (n,).
        changes: Blocks at which its logarithm changes level or slope.
    """

    values: Float
    changes: tuple[Change, ...]

    def since(self, block: int, pieces: int) -> Stretch:
        """The stretch from a block to the end, at least three blocks, with so many pieces."""
        values = self.values[block:]
        logs = _log(values)
        found = trend(logs)
        line = found.change * np.linspace(-0.5, 0.5, len(logs))
        rest = logs - line
        windows = effective_windows(rest)
        error = float(rest.std()) * math.sqrt(12 / max(windows, 1.0))
        parts = np.array_split(values, min(pieces, len(values)))
        means = np.array([part.mean() for part in parts])
        return Stretch(values, found.change, error, windows, found.z, means)


def course(blocks: Float, floor: float) -> Course:
    """A course with its changes.

    Args:
        blocks: Averages over blocks of rows, finite, not negative, float64, shape (n,).
        floor: Relative scatter of a block to reckon with at least.

    Returns:
        The course.
    """
    return Course(blocks, tuple(find_changes(_log(blocks), lines=True, floor=floor)))


def _log(values: Float) -> Float:
    """Logarithm with zero taken as the smallest float: a loss of exactly zero has arrived."""
    return np.asarray(np.log(np.maximum(values, _TINY)), np.float64)


def _exp(value: float) -> float:
    return math.exp(min(max(value, -700.0), 700.0))
