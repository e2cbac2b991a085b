"""The arrays of a damaged trajectory, opened as far as they can be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from trajfile.containers.proof import Notes
from trajfile.containers.store import (
    COMMITS,
    MANIFEST,
    SCALAR_STEP,
    SCALAR_VALUE,
    ArraySpec,
    ArrayStore,
    layout,
    stream_key,
)
from trajfile.errors import FormatError, NotATrajectory
from trajfile.schema import Manifest

Lane = tuple[str, str]


class Salvageable(ArrayStore, Protocol):
    """A store that may lack arrays.

    Attributes:
        anonymous: Why its root attributes cannot be used, if so.
    """

    anonymous: FormatError | None

    def settle(self, first: Manifest, newest: Manifest) -> dict[Lane, FormatError]:
        """Take the arrays for what the manifest says; lanes that cannot be read, and why."""
        ...


def open_store(path: Path, notes: Notes) -> Salvageable:
    """Open a damaged trajectory.

    Args:
        path: The file or folder.
        notes: Where what was found is noted.

    Returns:
        Its arrays; the tables of manifest and commits can be read.

    Raises:
        NotATrajectory: If there is nothing.
    """
    if not path.exists():
        raise NotATrajectory(f"{path}: no such file or folder", path=path, rule="CORE-001")
    if path.is_dir():
        from trajfile.containers.salvage_zarr import open_damaged_zarr

        return open_damaged_zarr(path, notes)
    from trajfile.containers.salvage_hdf5 import open_damaged_hdf5

    return open_damaged_hdf5(path, notes)


def tables_of(manifest: Manifest) -> Iterator[ArraySpec]:
    """The tables whose content is proven by the commit records."""
    keys = {SCALAR_STEP, SCALAR_VALUE}
    for stream in manifest.by_name:
        keys |= {stream_key(stream, "step"), stream_key(stream, "sample")}
    # Tensors and scalars that the lost end of the manifest told of may have widened them.
    yield from (spec for spec in layout(manifest) if spec.key in keys)


def lanes_of(manifest: Manifest) -> Iterator[tuple[Lane, ArraySpec]]:
    """The lanes."""
    specs = {spec.key: spec for spec in layout(manifest)}
    for stream in manifest.streams:
        for lane in stream.lanes:
            yield (stream.name, lane), specs[stream_key(stream.name, lane)]


#: What is known of the first two tables before the manifest is read.
FIRST = (
    ArraySpec(MANIFEST, "uint8", None, (1,)),
    ArraySpec(COMMITS, "uint64", 0, (1, 1)),
)


def created_as(first: Manifest, spec: ArraySpec, *, archive: bool) -> ArraySpec:
    """How an array was created that has become what `spec` says."""
    return next((s for s in layout(first, archive=archive) if s.key == spec.key), spec)


def readable(store: ArrayStore, key: str, item: np.dtype[np.generic]) -> bool:
    """Whether any of the first rows of a lane can be read."""
    for row in range(8):
        try:
            store.read(key, slice(row, row + 1), slice(0, 1), np.empty((1, 1), item))
        except FormatError:
            continue
        return True
    return False
