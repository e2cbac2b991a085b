"""Walking the chunk index of arrays of an HDF5 file, each from the bytes of its own.

The library keeps what it has read of a file by address. An index that claims the blocks of another
array is refused if it is read first, and believed, with the other array's chunks in it, if the
true owner was: then the block is in memory already and nobody asks whose it is. So what was read
of one array is dropped before the next one is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from h5py import h5d

from trajfile.containers.hdf5_damage import failures_as_damage
from trajfile.errors import FormatError


def damaged_indexes(datasets: Mapping[str, h5d.DatasetID], path: Path) -> Iterator[FormatError]:
    """Walk the index of each dataset, one by one.

    It takes as long as the index says it is long: not for what a reader need not walk anyway.

    Args:
        datasets: By key: all of which anything may be in memory.
        path: The file, open for reading alone.

    Yields:
        What is wrong with each index that cannot be walked.
    """
    for look in (h5d.DatasetID.refresh, walk):
        for key, dataset in datasets.items():
            try:
                with failures_as_damage(path, f"/{key}", "SUM-003"):
                    look(dataset)
            except FormatError as error:
                yield error


def walk(dataset: h5d.DatasetID) -> None:
    """Read the whole chunk index of a dataset and drop it again.

    Args:
        dataset: Of a file that is open for reading alone.
    """
    try:
        dataset.get_storage_size()  # sums over the chunks
    finally:
        dataset.refresh()
