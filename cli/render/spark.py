"""A series in one line of characters."""

from __future__ import annotations

import math
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"

#: A series whose positive values span more than this factor is drawn on a logarithmic scale.
_LOG_SPAN = 100.0

#: Below this relative range a series is flat; drawing its rounding errors would be a lie.
_FLAT = 1e-9


def sparkline(values: Sequence[float | None], width: int) -> tuple[str, bool]:
    """Draw a series.

    Each cell stands for an equal share of the values and shows the middle one; or, where one of
    them departs from it by more than all the middle ones differ, that one, so that a spike of a
    single step survives however long the series is.

    Args:
        values: The values in order; None where undefined.
        width: At most this many cells.

    Returns:
        The characters, a blank where nothing is defined; and whether the scale is logarithmic.
        Empty if no value is defined.
    """
    finite = [v for v in values if v is not None and math.isfinite(v)]
    if not finite:
        return "", False
    log = min(finite) > 0 and max(finite) / min(finite) > _LOG_SPAN
    length = min(width, len(values))
    shares = [
        [
            math.log10(v) if log else v
            for v in values[cell * len(values) // length : (cell + 1) * len(values) // length]
            if v is not None and math.isfinite(v)
        ]
        for cell in range(length)
    ]
    medians = [_middle(share) for share in shares if share]
    spread = max(medians) - min(medians)
    cells = [_cell(share, spread) if share else None for share in shares]
    shown = [cell for cell in cells if cell is not None]
    low, high = min(shown), max(shown)
    top = len(BLOCKS) - 1
    if high - low <= _FLAT * max(abs(low), abs(high)):
        return "".join(" " if cell is None else BLOCKS[top // 2] for cell in cells), log
    return "".join(
        " " if cell is None else BLOCKS[round((cell - low) / (high - low) * top)] for cell in cells
    ), log


def _middle(share: list[float]) -> float:
    return sorted(share)[len(share) // 2]


def _cell(share: list[float], spread: float) -> float:
    middle = _middle(share)
    extreme = max(share, key=lambda value: abs(value - middle))
    return extreme if abs(extreme - middle) > spread else middle
