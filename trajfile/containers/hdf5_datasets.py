"""The datasets of one HDF5 file, opened once each and checked to be what they should."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import h5py
from h5py import h5d, h5p, h5s

from trajfile.containers.hdf5_attributes import read_text
from trajfile.containers.hdf5_damage import LIBRARY_FAILURES, failures_as_damage
from trajfile.containers.hdf5_lanes import THREADS, Lane
from trajfile.containers.hdf5_open import check_storage
from trajfile.containers.hdf5_types import file_type, load_zstd
from trajfile.containers.store import MAX_CHUNK_COLUMNS, SCALAR_VALUE, ArraySpec
from trajfile.containers.threads import Threads
from trajfile.errors import Damaged


def joined_key(key: str) -> str:
    """Key of the dataset that holds the columns that join a lane later."""
    # Only a dataset with a single unlimited dimension has an index that grows without rewriting
    # its nodes (which, while readers may be there, would leak several KiB a row). So a lane stays
    # as wide as at its creation, and what joins goes there.
    return key + ".joined"


@cache
def _access(*, whole: bool) -> h5p.PropDAID:
    """How to open a dataset; one whose chunks are read and written whole, once, without a cache."""
    access = h5p.create(h5p.DATASET_ACCESS)
    if whole:
        access.set_chunk_cache(0, 0, 0.0)
    return access


class Datasets:
    """The datasets of an open file.

    Args:
        file: The file.
        path: Its name, for messages.
        archive: Whether chunks of lanes span several rows.
        writable: Whether it is being appended to.

    Attributes:
        file: The file; another one once it was opened again.
        opened: What is open, by key.
        lanes: How to read each dataset of a lane, by key.
    """

    def __init__(self, file: h5py.File, path: Path, *, archive: bool, writable: bool):
        self.file = file
        self.opened: dict[str, h5d.DatasetID] = {}
        self.lanes: dict[str, Lane] = {}
        self._path = path
        self._archive = archive
        self._writable = writable
        self._filters: dict[str, tuple[int, ...]] = {}
        self._wide: dict[str, int] = {}  # lanes that can widen: columns of the first dataset
        self._threads = Threads(THREADS, "trajfile-hdf5")

    def expect(self, specs: Iterable[ArraySpec]) -> None:
        """Check that the arrays exist as specified, with at least as many columns."""
        descriptor = self._descriptor()
        for spec in specs:
            with failures_as_damage(self._path, f"/{spec.key}"):
                self._check(spec, descriptor)
                if spec.lane and joined_key(spec.key) in self.file:
                    self._wide[spec.key] = self.get(spec.key).shape[1]
                    joined = replace(spec, key=joined_key(spec.key), columns=0)
                    self._check(joined, descriptor)
                if spec.columns is not None and self.columns(spec.key) < spec.columns:
                    raise self.wrong(spec.key, f"has fewer than {spec.columns} columns")

    def get(self, key: str, *, lane: bool = False) -> h5d.DatasetID:
        """A dataset, opened unless it is open.

        Args:
            key: Its place.
            lane: Whether its chunks are read and written whole.

        Returns:
            The dataset; for a reader as its writer last flushed it.

        Raises:
            Damaged: If it is not there, or is stored in a way that is not ours.
        """
        if key not in self.opened:
            try:
                dataset = h5d.open(self.file.id, key.encode(), _access(whole=lane))
            except LIBRARY_FAILURES as error:
                raise self.wrong(key, "is missing") from error
            self._filters[key] = check_storage(dataset, self._path, f"/{key}")
            if self.file.swmr_mode and not self._writable:
                dataset.refresh()
            self.opened[key] = dataset
        return self.opened[key]

    def forget(self) -> None:
        """Let go of all of them."""
        self._threads.close()
        self.opened.clear()
        self.lanes.clear()

    def columns(self, key: str) -> int:
        """Columns that the array has now."""
        with failures_as_damage(self._path, f"/{key}"):
            return sum(int(self.get(part).shape[1]) for part in self.parts(key))

    def parts(self, key: str) -> list[str]:
        """The datasets that make up an array: a lane's joined columns lie in one of their own."""
        return [key, joined_key(key)] if key in self._wide else [key]

    def first_columns(self, key: str) -> int:
        """Columns of the first dataset of an array that has two; of others 0."""
        return self._wide.get(key, 0)

    def split(self, key: str, columns: slice) -> Iterator[tuple[str, slice, slice]]:
        """For each dataset its columns, and which of the given columns they are."""
        end = self._wide.get(key, columns.stop)
        for part, first, last in zip(self.parts(key), (0, end), (end, columns.stop), strict=False):
            start, stop = max(columns.start, first), min(columns.stop, last)
            inside = slice(start - first, max(start, stop) - first)
            yield part, inside, slice(start - columns.start, max(start, stop) - columns.start)

    def wrong(self, key: str, what: str, rule: str = "CORE-007") -> Damaged:
        """The error for an array that is not what it should be."""
        return self.damaged(key, f"the array {what}", rule)

    def damaged(self, key: str, what: str, rule: str) -> Damaged:
        """The error for what is wrong at a place."""
        return Damaged(
            f"{self._path}, /{key}: {what}; restore the file from a copy",
            path=str(self._path),
            location=f"/{key}",
            rule=rule,
        )

    def _check(self, spec: ArraySpec, descriptor: int | None) -> None:
        dataset = self.get(spec.key, lane=spec.lane)
        if dataset.rank != (1 if spec.columns is None else 2):
            raise self.wrong(spec.key, f"has shape {dataset.shape}")
        if not dataset.get_type().equal(file_type(spec.dtype)):
            raise self.wrong(spec.key, f"does not hold {spec.dtype}", "DT-002")
        rows, width = (*dataset.get_create_plist().get_chunk(), 1)[:2]
        filters = self._filters[spec.key]
        if spec.key == SCALAR_VALUE or (spec.columns == 0 and spec.lane):
            limits = dataset.get_space().get_simple_extent_dims(True)
            if limits[1] != h5s.UNLIMITED:
                raise self.wrong(spec.key, "cannot be extended sideways", "H5-009")
        if not spec.lane:
            if filters:
                raise self.wrong(spec.key, "is filtered, yet rewritten in place", "H5-008")
            return
        if rows * width > MAX_CHUNK_COLUMNS or (rows != 1 and not self._archive):
            raise self.wrong(spec.key, f"has chunks of {rows} x {width}", "H5-010")
        if read_text(dataset, "dtype") != spec.dtype:
            raise self.wrong(spec.key, f"lacks the attribute dtype={spec.dtype!r}", "DT-003")
        try:
            lane = Lane(
                dataset,
                filters,
                lambda what, rule: self.damaged(spec.key, what, rule),
                descriptor,
                self._threads,
            )
        except ValueError as error:
            raise self.wrong(spec.key, str(error), "H5-007") from error
        if lane.compression == "zstd" and self._writable:
            load_zstd(self._path)
        self.lanes[spec.key] = lane

    def _descriptor(self) -> int | None:
        """The open file, for reading chunks where they lie; None if the library must.

        It must where it may hold what is not yet in the file, and where addresses do not count
        from the file's first byte.

        Returns:
            The library's own descriptor.
        """
        if self._writable or self.file.driver != "sec2" or self.file.userblock_size:
            return None
        return int(self.file.id.get_vfd_handle())
