"""How often something was recorded, in words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .text import count

#: Consecutive steps in groups of at least two, with gaps between, are called bursts.
_SHORTEST_BURST = 2


def cadence(steps: NDArray[np.int64]) -> str:
    """Describe the distances between recorded steps.

    Args:
        steps: int64, non-decreasing; repeats (samples of one step) count once.

    Returns:
        ``every step``, ``every 10``, ``every 10, gaps``, ``bursts of 5, every 100``,
        ``every 1–400, median 10``; ``once`` for one step and an empty string for none.
    """
    unique = distinct(steps)
    if len(unique) < 2:
        return "once" if len(unique) else ""
    gaps = np.diff(unique)
    shortest, longest = int(gaps.min()), int(gaps.max())
    if shortest == longest:
        return _every(shortest)
    if shortest == 1 and (bursts := _bursts(unique, gaps)):
        return bursts
    middle = int(np.median(gaps))
    if (gaps == middle).mean() > 0.9:
        return f"mostly {_every(middle)}"
    return f"every {count(shortest)}–{count(longest)}, median {count(middle)}"


def distinct(steps: NDArray[np.int64]) -> NDArray[np.int64]:
    """Non-decreasing steps, each once; np.unique would import half of NumPy for it."""
    return steps[np.diff(steps, prepend=-1) > 0]


def _every(gap: int) -> str:
    return "every step" if gap == 1 else f"every {count(gap)}"


def _bursts(unique: NDArray[np.int64], gaps: NDArray[np.int64]) -> str:
    starts = np.flatnonzero(np.concatenate([[True], gaps > 1]))
    lengths = np.diff(np.append(starts, len(unique)))
    between = np.diff(unique[starts])
    if len(starts) < 3 or np.median(lengths) < _SHORTEST_BURST:
        return ""
    length, apart = int(np.median(lengths)), int(np.median(between))
    return f"bursts of {count(length)}, every {count(apart)}"
