"""Reading a table of an HDF5 file: whole, or whatever of it is there."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from h5py import h5d, h5s
from numpy.typing import NDArray

from trajfile.containers.hdf5_damage import failures_as_damage
from trajfile.containers.hdf5_datasets import Datasets
from trajfile.containers.hdf5_lanes import select
from trajfile.containers.store import believable_bytes
from trajfile.errors import Damaged, Unsafe


def load_table(
    datasets: Datasets, path: Path, key: str, count: int | None, file_bytes: Callable[[], int]
) -> NDArray[np.generic]:
    """The first rows of a table.

    Args:
        datasets: Where it is.
        path: The file, for messages.
        key: The table.
        count: How many rows; None for all that are stored.
        file_bytes: Says the size of the file in bytes.

    Returns:
        Shape (rows,) or (rows, columns).

    Raises:
        Damaged: If fewer are stored.
        Unsafe: If they would take far more memory than the file has bytes.
    """
    dataset = datasets.get(key)
    shape = dataset.shape
    rows = shape[0] if count is None else count
    if rows > shape[0]:
        what = f"has {shape[0]} rows where {rows} are committed"
        raise datasets.damaged(key, what, "COM-002")
    wanted = (rows, *shape[1:])
    dtype = dataset.dtype
    # Chunks may claim the same place twice: no more than the file is there. To ask is to walk
    # the index of the chunks, which is as long as it says.
    size = math.prod(wanted) * dtype.itemsize
    if size > believable_bytes(0) and size > believable_bytes(
        min(int(dataset.get_storage_size()), file_bytes())
    ):
        raise Unsafe(
            f"{path}, /{key}: shape {shape} is far beyond the bytes stored: read only "
            "files from a conforming writer",
            path=str(path),
            location=f"/{key}",
            rule="CORE-009",
        )
    out = np.empty(wanted, dtype)
    _read(dataset, tuple(slice(0, n) for n in wanted), out)
    return out


def salvage_table(
    datasets: Datasets, path: Path, key: str, file_bytes: int
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Whatever can be read of a table.

    Args:
        datasets: Where it is.
        path: The file, for messages.
        key: The table.
        file_bytes: Size of the file.

    Returns:
        All rows, and which could be read; the others are zeros.

    Raises:
        Damaged: If it cannot be opened, or says to be far larger than the file.
    """
    with failures_as_damage(path, f"/{key}"):
        dataset = datasets.get(key)
        shape, dtype = dataset.shape, dataset.dtype
        height = int(dataset.get_create_plist().get_chunk()[0])
        if math.prod(shape) * dtype.itemsize > believable_bytes(file_bytes):
            raise datasets.damaged(key, f"has shape {shape}, far beyond its bytes", "CORE-009")
    out, known = np.zeros(shape, dtype), np.zeros(shape[0], np.bool_)
    for first in range(0, shape[0], height):
        part = slice(first, min(first + height, shape[0]))
        with contextlib.suppress(Damaged), failures_as_damage(path, f"/{key}"):
            _read(dataset, (part, *(slice(0, n) for n in shape[1:])), out[part])
            known[part] = True
    return out, known


def _read(dataset: h5d.DatasetID, block: tuple[slice, ...], out: NDArray[np.generic]) -> None:
    if out.size:
        memory = h5s.create_simple(out.shape)
        dataset.read(memory, select(dataset, block), out, dataset.get_type())
