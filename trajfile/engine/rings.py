"""Where formed rows lie: in rings of scratch rows, used again once nothing wants their rows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from trajfile.engine import tables as t
from trajfile.engine.rows import Index

Code = NDArray[np.int32]

#: Where each kind of instruction names the rows that it forms.
_INTO = {t.WIDEN: (1,), t.SUBTRACT: (2,), t.ADVANCE: (4,), t.ADVANCE_TWO: (4, 7)}


def rings(code: Code, rows: int, formed: Iterable[slice]) -> tuple[Index, int]:
    """Give each formed row a scratch row.

    Args:
        code: The instructions, in order.
        rows: Rows in the table of rows.
        formed: For each formed sequence its rows in the table; they are formed in order.

    Returns:
        For each row of the table its scratch row, -1 if it is not formed; and how many there are.
    """
    made = np.zeros(rows, np.int64)  # the instruction that forms a row
    _, last = uses(code, rows)
    for kind, places in _INTO.items():
        of = np.flatnonzero(code[:, t.KIND] == kind)
        for place in places:
            made[code[of, t.ROWS + place]] = of
    scratch = np.full(rows, -1, np.int64)
    used = 0
    for own in formed:
        count = own.stop - own.start
        # Rows that are formed while each of them is still wanted, itself included.
        alive = np.searchsorted(made[own], np.maximum(last[own], made[own]), "right")
        ring = max(1, int((alive - np.arange(count)).max(initial=1)))
        scratch[own] = used + np.arange(count) % ring
        used += ring
    return scratch, used


def uses(code: Code, rows: int) -> tuple[Index, Index]:
    """Which instructions name each row.

    Args:
        code: The instructions, in order.
        rows: Rows in the table of rows.

    Returns:
        The first and the last of them; of a row that is not named, the number of instructions,
        and 0. Instructions with fewer rows than there is room for name row 0 too.
    """
    first, last = np.full(rows, len(code)), np.zeros(rows, np.int64)
    bands = code[:, t.KIND] == t.BAND
    plain = np.flatnonzero(~bands)
    # Of several numbers given to a row, the last is kept.
    last[code[plain, t.ROWS : t.SUMS].ravel()] = np.repeat(plain, t.MOST_ROWS)
    turned = plain[::-1]
    first[code[turned, t.ROWS : t.SUMS].ravel()] = np.repeat(turned, t.MOST_ROWS)
    for number in np.flatnonzero(bands):
        for named in _band_rows(code[number]):
            np.maximum(last[named], number, out=last[named])
            np.minimum(first[named], number, out=first[named])
    return first, last


def _band_rows(band: NDArray[np.int32]) -> tuple[slice, slice]:
    """The left and right rows in the table that a band instruction multiplies."""
    start, stop = int(band[t.BAND_START]), int(band[t.BAND_STOP])
    lag, lags = int(band[t.BAND_FIRST_LAG]), int(band[t.BAND_LAGS])
    first = max(start + lag, int(band[t.BAND_RIGHT_FIRST]))
    after = min(stop + lag + lags - 1, int(band[t.BAND_RIGHT_STOP]))
    left, right = int(band[t.BAND_LEFT]), int(band[t.BAND_RIGHT])
    return slice(left + start, left + stop), slice(right + first, right + max(first, after))
