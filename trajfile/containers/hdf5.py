"""Trajectories in HDF5: all arrays created beforehand, then appended to in single-writer mode.

Once rows are appended no object is created any more: a kill between the writes that link a new
object would take the whole file along. Creation happens under another name, so that what a kill
leaves of it is in nobody's way.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from h5py import h5d, h5p, h5s, h5z

from trajfile.containers.full_disk import full_disk_as_resource_error
from trajfile.containers.hdf5_attributes import read_identity
from trajfile.containers.hdf5_damage import failures_as_damage
from trajfile.containers.hdf5_datasets import joined_key
from trajfile.containers.hdf5_open import (
    check_links,
    check_version,
    open_for_reading,
    read_superblock,
)
from trajfile.containers.hdf5_resume import ALIGNMENT, open_to_append
from trajfile.containers.hdf5_store import Hdf5Store
from trajfile.containers.hdf5_types import ZSTD_FILTER, file_type, load_zstd
from trajfile.containers.identity import (
    Attributes,
    check_identity,
    is_archive,
    new_identity,
    refuse_append,
)
from trajfile.containers.journal import Journal
from trajfile.containers.packing import GZIP_LEVEL, zstd_level
from trajfile.containers.state import identity_of
from trajfile.containers.store import COMMITS, MANIFEST, UNKNOWN_CHUNK, ArraySpec, layout
from trajfile.containers.writer_lock import WriterLock, claim_aside
from trajfile.schema import Manifest

# v110 is the oldest format with single-writer mode; "latest" would lock out older libraries.
_BOUNDS = ("v110", "v110")


def create_hdf5(
    path: Path,
    manifest: Manifest,
    *,
    compression: str | None,
    durability: str,
    uuid: str | None = None,
) -> Journal:
    """Create an HDF5 trajectory; see `trajfile.containers.create`."""
    power = durability == "power"
    store = create_store(path, manifest, new_identity(uuid), compression, power=power)
    try:
        return Journal(store, writable=True, power=power)
    except BaseException:
        store.undo()
        raise


def create_store(
    path: Path,
    manifest: Manifest,
    identity: Attributes,
    compression: str | None,
    *,
    power: bool = False,
) -> Hdf5Store:
    """Create the arrays of a trajectory, empty but for the manifest's first revision.

    Args:
        path: The file.
        manifest: The first revision.
        identity: The root attributes.
        compression: How lanes are compressed.
        power: Whether the file and its name are forced to the disk.

    Returns:
        The arrays, to be begun and then written.
    """
    if compression == "zstd":
        load_zstd(path)
    with full_disk_as_resource_error(path):
        aside = claim_aside(path)
        file = h5py.File(
            aside, "x", libver=_BOUNDS, alignment_threshold=1, alignment_interval=ALIGNMENT
        )
        store = Hdf5Store(file, path, identity, WriterLock(aside), power=power, aside=aside)
        try:
            for name, value in identity.items():
                # Fixed-length text: variable-length text lies in a heap without a checksum, and
                # a flipped bit there sends the library into an endless loop.
                integers = name == "format_version"
                file.attrs[name] = np.array(value, "<i8" if integers else np.bytes_)
            archive = is_archive(identity)
            for spec in layout(manifest, archive=archive):
                _create_array(file, spec, compression)
                if spec.lane and not archive:
                    width = max(spec.chunk[1], UNKNOWN_CHUNK)
                    joined = replace(spec, key=joined_key(spec.key), columns=0, chunk=(1, width))
                    _create_array(file, joined, compression)
            store.save(MANIFEST, 0, np.frombuffer(manifest.to_line(identity_of(store)), np.uint8))
            store.flush([MANIFEST])  # reading it must not be what meets a full disk
        except BaseException:
            store.undo()
            raise
        return store


def reopen_store(path: Path) -> Hdf5Store:
    """Open the arrays that `create_store` made, also after a kill, to go on writing them.

    Args:
        path: The file.

    Returns:
        The arrays, to be expected, begun and written.
    """
    file = open_for_reading(path)
    try:
        identity = read_identity(file)
        check_identity(identity, path)
        with failures_as_damage(path):
            check_links(file, path)
    finally:
        file.close()
    lock = WriterLock(path)
    try:
        return Hdf5Store(open_to_append(path, lock), path, identity, lock)
    except BaseException:
        lock.close()
        raise


def open_hdf5(path: Path, *, writable: bool, durability: str) -> Journal:
    """Open an HDF5 trajectory; see `trajfile.containers.open_container`."""
    power = durability == "power"
    file = open_for_reading(path)
    try:
        identity = read_identity(file)
        check_identity(identity, path)
        check_version(path)
        with failures_as_damage(path):
            check_links(file, path)
        store = Hdf5Store(file, path, identity)
        journal = Journal(store, writable=False, power=False)
        if not writable:
            return journal
        refuse_append(identity, path)
        store.check_indexes()
    except BaseException:
        file.close()
        raise
    journal.close()
    lock = WriterLock(path)
    try:
        left = read_superblock(path).writing
        file = open_to_append(path, lock)
        try:
            store = Hdf5Store(file, path, identity, lock, power=power, left_by_a_kill=left)
            return Journal(store, writable=True, power=power)
        except BaseException:
            file.close()
            raise
    except BaseException:
        lock.close()
        raise


def _create_array(file: h5py.File, spec: ArraySpec, compression: str | None) -> None:
    """Create one empty array, extensible downwards and, unless it is as wide as ever, sideways."""
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk(spec.chunk)
    plist.set_obj_track_times(False)  # equal content, equal bytes
    if spec.fill:
        plist.set_fill_value(np.array(spec.fill, "<u8").view("<f8"))
    if spec.lane:
        if compression is not None:
            plist.set_shuffle()
        if compression == "gzip":
            plist.set_deflate(GZIP_LEVEL)
        if compression == "zstd":
            level = zstd_level(search=spec.chunk[0] > 1)
            plist.set_filter(ZSTD_FILTER, h5z.FLAG_MANDATORY, (level,))
        plist.set_fletcher32()  # last, so that it covers what is on disk
    links = h5p.create(h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    shape: tuple[int, ...] = (0,)
    limit: tuple[int, ...] = (h5s.UNLIMITED,)
    if spec.columns is not None:
        fixed = spec.key == COMMITS or (spec.lane and spec.columns > 0)
        shape = (0, spec.columns)
        limit = (h5s.UNLIMITED, spec.columns if fixed else h5s.UNLIMITED)
    space = h5s.create_simple(shape, limit)
    made = h5d.create(file.id, spec.key.encode(), file_type(spec.dtype), space, plist, links)
    if spec.lane:
        h5py.Dataset(made).attrs["dtype"] = np.bytes_(spec.dtype)
