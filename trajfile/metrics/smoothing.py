"""Running medians over samples: verdicts rest on windows, never on a single value."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Float = NDArray[np.float64]

#: Series from which on sorting takes longer than telling the ends from the rest.
_LONG = 4096


def running_median(values: Float, window: int) -> Float:
    """Median over a centred window, leaving out what is not finite.

    Near the ends the window shrinks to what there is, so that the result has the input's length.

    Args:
        values: Samples, float64, shape (n,).
        window: Width in samples; taken to the next odd number.

    Returns:
        float64, shape (n,); NaN where the window holds no finite value.
    """
    half = max(int(window), 1) // 2
    kept = np.where(np.isfinite(values), values, np.nan)
    if half == 0 or len(kept) == 0:
        return kept
    n, width = len(kept), 2 * half + 1
    if n > max(width, _LONG) and np.isfinite(kept).all():
        # Of a full window the middle one is wanted alone, which takes no sorting.
        full = sliding_window_view(kept, width)
        return np.concatenate(
            [
                _medians(kept[: 2 * half], half)[:half],
                np.partition(full, half, axis=1)[:, half],
                _medians(kept[n - 2 * half :], half)[half:],
            ]
        )
    return _medians(kept, half)


def _medians(kept: Float, half: int) -> Float:
    """The running median of so many values on either side, where NaN stands for what is not."""
    padded = np.concatenate([np.full(half, np.nan), kept, np.full(half, np.nan)])
    # Sorting puts the NaN last, so the median is read off the first `count` entries of each row.
    ranked = np.sort(sliding_window_view(padded, 2 * half + 1), axis=1)
    count = np.isfinite(ranked).sum(axis=1)
    row = np.arange(len(ranked))
    low, high = ranked[row, np.maximum(count - 1, 0) // 2], ranked[row, count // 2]
    middle: Float = (low + high) / 2
    return middle
