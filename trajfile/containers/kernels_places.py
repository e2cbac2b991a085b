"""Taking down where the chunks of a dataset lie, compiled: called by the HDF5 library for each.

`trajfile.containers.hdf5_places` says how.
"""

from __future__ import annotations

import numba
import numpy as np

from trajfile.containers.compiling import callback

#: Numbers before the first chunk: how many chunks there are, and for how many there is room.
HEAD = 2
#: Numbers of a chunk: its offset in two dimensions, the filters it skips, its address and size.
FIELDS = 5


def _take_down(offset, mask, address, size, into):
    number = into[0]
    if number < into[1]:
        at = HEAD + FIELDS * number
        into[at] = offset[0]
        into[at + 1] = offset[1]
        into[at + 2] = np.uint64(mask)
        into[at + 3] = address
        into[at + 4] = size
    into[0] = number + np.uint64(1)
    return 0


#: `H5D_chunk_iter_op_t` of HDF5 1.14 and later.
_OPERATOR = numba.types.intc(
    numba.types.CPointer(numba.uint64),
    numba.types.uintc,
    numba.uint64,
    numba.uint64,
    numba.types.CPointer(numba.uint64),
)

take_down = callback(__file__)(_take_down, _OPERATOR)
