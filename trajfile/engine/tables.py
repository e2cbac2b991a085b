"""The columns of the integer tables that `trajfile.engine.kernels` works through."""

from __future__ import annotations

from typing import Final

#: Kinds of forming a row: from a recorded one, from two that follow each other, or from a
#: reference.
WIDEN: Final = 0
DIFFERENCE: Final = 1
OFFSET: Final = 2

#: A form: its kind, the first row it is formed of, the first row formed, and the reference row.
FORM_KIND: Final = 0
FORM_OF: Final = 1
FORM_INTO: Final = 2
FORM_REFERENCE: Final = 3
FORM_COLUMNS: Final = 4

#: A product. Row i of its left sequence is row `OP_LEFT` + i of the table of rows; likewise right.
OP_LEFT: Final = 0
OP_RIGHT: Final = 1
#: Rows that exist: left ones below `OP_LEFT_STOP`, right ones from `OP_RIGHT_FIRST` on.
OP_LEFT_STOP: Final = 2
OP_RIGHT_FIRST: Final = 3
OP_RIGHT_STOP: Final = 4
#: First left row.
OP_START: Final = 5
#: The first lag, and how many follow each other.
OP_FIRST_LAG: Final = 6
OP_LAGS: Final = 7
#: Whether three left rows are taken with four right ones, instead of two with six.
OP_TALL: Final = 8
#: Where row 0 at the first lag is added, and how far the next row is from it.
OP_TOTAL: Final = 9
OP_TOTAL_STRIDE: Final = 10
#: Where row 0 is added for each tensor; negative if tensors are not told apart.
OP_PER_TENSOR: Final = 11
OP_TENSOR_STRIDE: Final = 12
#: First row in the table of rows asked for at each lag.
OP_MASK: Final = 13
OP_COLUMNS: Final = 14

#: A copy of a row: which row, and the offset it goes to.
COPY_FROM: Final = 0
COPY_TO: Final = 1
