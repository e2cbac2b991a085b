"""Trajectories in Zarr v3: one file a row and shard, moved into place whole.

The files are those of any Zarr v3 library; they are read and written here directly, because a
library call per array and step costs more than the step, returns the fill value for a chunk that
is missing, and follows symbolic links.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trajfile.containers.folder import Folder
from trajfile.containers.full_disk import full_disk_as_resource_error
from trajfile.containers.identity import Attributes, new_identity, refuse_append
from trajfile.containers.journal import Journal
from trajfile.containers.objects import Objects
from trajfile.containers.state import identity_of
from trajfile.containers.store import MANIFEST, layout
from trajfile.containers.writer_lock import claim_aside
from trajfile.containers.zarr_documents import DOCUMENT, INVALID_JSON
from trajfile.containers.zarr_folder_store import FolderStore
from trajfile.containers.zarr_metadata import GroupDocument
from trajfile.containers.zarr_store import ZarrStore
from trajfile.errors import Damaged, NotATrajectory
from trajfile.schema import Manifest


def create_zarr(
    path: Path,
    manifest: Manifest,
    *,
    compression: str | None,
    durability: str,
    uuid: str | None = None,
) -> Journal:
    """Create a Zarr trajectory; see `trajfile.containers.create`."""
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
) -> FolderStore:
    """Create the arrays of a trajectory, empty but for the manifest's first revision.

    Args:
        path: The folder.
        manifest: The first revision.
        identity: The root attributes.
        compression: How lanes are compressed.
        power: Whether files are forced to the disk.

    Returns:
        The arrays, to be written.
    """
    with full_disk_as_resource_error(path):
        aside = claim_aside(path)
        aside.mkdir()
    store = FolderStore(path, identity, writable=True, power=power, aside=aside)
    try:
        lay_out(store, manifest, compression)
        # Last: a folder without it is no trajectory, so a half-made one is not mistaken for one.
        store.put_root(identity)
    except BaseException:
        store.undo()
        raise
    return store


def lay_out(store: ZarrStore, manifest: Manifest, compression: str | None) -> None:
    """Make the arrays, but not what makes them a trajectory; see `create_store`."""
    for spec in layout(manifest, archive=store.archive):
        store.create(spec, compression)
    store.save(MANIFEST, 0, np.frombuffer(manifest.to_line(identity_of(store)), np.uint8))
    store.flush([MANIFEST])


def reopen_store(path: Path) -> FolderStore:
    """Open the arrays that `create_store` made to go on writing them.

    Args:
        path: The folder.

    Returns:
        The arrays, to be expected and written.
    """
    return FolderStore(path, read_identity(path), writable=True, power=False)


def open_zarr(path: Path, *, writable: bool, durability: str) -> Journal:
    """Open a Zarr trajectory; see `trajfile.containers.open_container`."""
    power = durability == "power"
    identity = read_identity(path)
    if writable:
        refuse_append(identity, path)
    store = FolderStore(path, identity, writable=writable, power=power)
    try:
        return Journal(store, writable=writable, power=power)
    except BaseException:
        store.close()
        raise


def read_identity(path: Path, files: Folder | Objects | None = None) -> Attributes:
    """The root attributes that have the types they should have.

    Args:
        path: The folder.
        files: What reads the files in it.

    Returns:
        The attributes.

    Raises:
        NotATrajectory: If it is not the root of a Zarr v3 hierarchy.
        Damaged: If its creation was not finished.
    """
    reader: Any = files or Folder(path, power=False)
    try:
        document = msgspec.json.decode(reader.document(path / DOCUMENT), type=GroupDocument)
    except (FileNotFoundError, *INVALID_JSON) as error:
        where = path if isinstance(reader, Folder) else reader.bucket.url
        if isinstance(error, FileNotFoundError) and reader.holds(path / MANIFEST / DOCUMENT):
            raise Damaged(
                f"{where} is being created, or its writer was killed before the first step: wait, "
                "or delete it if no program is writing it",
                path=where,
                rule="CORE-012",
            ) from error
        raise NotATrajectory(
            f"{where} is a folder, but not a Zarr v3 group: it has no valid zarr.json",
            path=where,
            rule="CORE-002",
        ) from error
    found: dict[str, str | tuple[int, ...] | tuple[str, ...]] = {}
    for name, value in document.attributes.items():
        if isinstance(value, str):
            found[name] = value
        elif isinstance(value, list) and {type(item) for item in value} in ({int}, {str}, set()):
            found[name] = tuple(value)
    return found
