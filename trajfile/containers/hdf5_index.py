"""Walking the chunk index of arrays of an HDF5 file, each from the bytes of its own.

The library keeps what it has read of a file by address. An index that claims the blocks of another
array is refused if it is read first, and believed, with the other array's chunks in it, if the
true owner was: then the block is in memory already and nobody asks whose it is. So the file is
opened once more, where nothing is in memory, and what was read of one array is dropped before the
next one is looked at. (Where a file is open twice, the library cannot drop anything.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import h5py
from h5py import h5d

from trajfile.containers.hdf5_damage import failures_as_damage
from trajfile.containers.hdf5_view import ClosedView
from trajfile.errors import FormatError


def damaged_indexes(path: Path, keys: Iterable[str]) -> Iterator[FormatError]:
    """Walk the indexes of arrays, one by one.

    It takes as long as the indexes say they are long: not for what a reader need not walk anyway.

    Args:
        path: The file, which nobody is writing.
        keys: The arrays.

    Yields:
        What is wrong with each index that cannot be walked.
    """
    with h5py.File(ClosedView(path), "r") as file:
        for key in keys:
            try:
                with failures_as_damage(path, f"/{key}", "SUM-003"):
                    walk(h5d.open(file.id, key.encode()))
            except FormatError as error:
                yield error


def walk(dataset: h5d.DatasetID) -> None:
    """Read the whole chunk index of a dataset and drop it again.

    Args:
        dataset: Of a file that is open for reading alone, and in a view of its own.
    """
    try:
        dataset.get_storage_size()  # sums over the chunks
    finally:
        dataset.refresh()
