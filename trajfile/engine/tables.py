"""The columns of the table of instructions that `trajfile.engine.kernels` works through."""

from __future__ import annotations

from typing import Final

KIND: Final = 0
#: The rows that an instruction concerns, by their numbers in the table of rows.
ROWS: Final = 1
MOST_ROWS: Final = 8
#: Where its sums are added among the totals, negative if nowhere ...
SUMS: Final = ROWS + MOST_ROWS
MOST_SUMS: Final = 12
#: ... and, of some kinds, among the sums of a tensor.
TENSORS: Final = SUMS + MOST_SUMS
MOST_TENSORS: Final = 10
COLUMNS: Final = TENSORS + MOST_TENSORS

#: Form a float32 row from a recorded one. Rows: recorded, formed.
WIDEN: Final = 0
#: Subtract a row from another. Rows: minuend, subtrahend, difference.
SUBTRACT: Final = 1
#: Take a step of a sequence: form the difference to its next row and multiply, all at once.
#: Rows: now, next, two references, difference. Sums as `ADVANCED` names them.
ADVANCE: Final = 2
#: The same of two sequences side by side. Rows: those of ADVANCE; then of the other sequence now,
#: next, difference.
ADVANCE_TWO: Final = 3
#: One product. Rows: left, right. One sum.
DOT: Final = 4
#: A row with six. Rows: the row, the six. Six sums.
ONE_BY_SIX: Final = 5
#: Two rows with six. Rows: the two, the six. Twelve sums, the first row's first.
TWO_BY_SIX: Final = 6
#: Many lags of many rows; its columns are named below.
BAND: Final = 7

#: What ADVANCE multiplies, in the order of its sums: v the row, d its difference to the next, a and
#: b its offsets from the references. ADVANCE_TWO goes on with w and e, row and difference of the
#: other sequence.
ADVANCED: Final = ("vv", "dv", "dd", "aa", "ad", "bb", "bd", "ww", "vw", "de")
ADVANCE_SUMS: Final = 7

#: A band. Row i of its left sequence is row BAND_LEFT + i of the table of rows; likewise right.
BAND_LEFT: Final = 1
BAND_RIGHT: Final = 2
#: Rows that exist: left ones below BAND_LEFT_STOP, right ones from BAND_RIGHT_FIRST on.
BAND_LEFT_STOP: Final = 3
BAND_RIGHT_FIRST: Final = 4
BAND_RIGHT_STOP: Final = 5
#: The left rows to be multiplied now.
BAND_START: Final = 6
BAND_STOP: Final = 7
#: The first lag, and how many follow each other.
BAND_FIRST_LAG: Final = 8
BAND_LAGS: Final = 9
#: Where row 0 at the first lag is added, and how far the next row is from it.
BAND_TOTAL: Final = 10
BAND_STRIDE: Final = 11
#: First row in the table of rows asked for at each lag.
BAND_MASK: Final = 12

#: A copy of a row: which row, and the offset it goes to.
COPY_FROM: Final = 0
COPY_TO: Final = 1
