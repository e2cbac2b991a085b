"""Where the chunks of a dataset lie, as the HDF5 library says.

Its wrapper makes some Python objects for each chunk, which takes longer than reading a chunk of
some KiB. A compiled function takes the same down from the library itself.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import numpy as np
from h5py import h5, h5d
from h5py._objects import phil
from numpy.typing import NDArray

from trajfile.containers import checksum

#: Chunks that there is room for at first.
_ROOM = 2**16
#: The address of what has no place.
_NOWHERE = np.uint64(2**64 - 1)
#: From this release of the library on, functions are called for chunks as they are here.
_RELEASE = (1, 14, 0)

Table = NDArray[np.uint64]


def stored_chunks(dataset: h5d.DatasetID) -> Table:
    """All chunks that a dataset has in its file.

    Args:
        dataset: Of two dimensions.

    Returns:
        For each its offset in two dimensions, the filters it skips, its address and its size,
        uint64, shape (chunks, 5).
    """
    found = _taken_down(dataset) if checksum.compiled() else None
    return _listed(dataset) if found is None else found


def _listed(dataset: h5d.DatasetID) -> Table:
    """The same, by the library's wrapper."""
    chunks: list[h5d.StoreInfo] = []
    dataset.chunk_iter(chunks.append)
    flat: list[int] = []
    for chunk in chunks:
        flat += *chunk.chunk_offset, chunk.filter_mask, chunk.byte_offset or 0, chunk.size
    return np.array(flat, np.uint64).reshape(-1, 5)


def _taken_down(dataset: h5d.DatasetID) -> Table | None:
    """The same, from the library itself; None if it fails, which its wrapper tells better."""
    function = _function()
    if function is None:
        return None
    from trajfile.containers.kernels_places import FIELDS, HEAD, take_down

    room = _ROOM
    while True:
        into = np.zeros(HEAD + FIELDS * room, np.uint64)
        into[1] = room
        with phil:  # the lock that all calls of the library are made under
            done = function(dataset.id, 0, take_down.address, into.ctypes.data)
            count = int(into[0])
            if done < 0:
                return None
            if count <= room:
                found = into[HEAD : HEAD + FIELDS * count].reshape(-1, FIELDS)
                if count and not _agrees(dataset, found):
                    return None
                found[found[:, 3] == _NOWHERE, 3] = 0  # as the wrapper's None
                return found
        room = count


def _agrees(dataset: h5d.DatasetID, found: Table) -> bool:
    """Whether the library's wrapper says the same of a chunk."""
    # Of one away from the origin, in both dimensions if there is such a one: at the origin offsets
    # are the same in whatever they are counted.
    one = int(np.argmax(np.count_nonzero(found[:, :2], axis=1)))
    down, across, mask, address, size = found[one].tolist()
    info = dataset.get_chunk_info_by_coord((down, across))
    return (info.filter_mask, info.byte_offset, info.size) == (mask, address, size)


@cache
def _function() -> Any | None:
    """The function of the library that the wrapper is linked to, if it can be called here."""
    if h5.get_libversion() < _RELEASE:
        return None
    try:
        function = ctypes.CDLL(h5d.__file__).H5Dchunk_iter
        from trajfile.containers import kernels_places  # noqa: F401  # to see whether it compiles
    except (ImportError, OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
    function.restype = ctypes.c_int
    return function
