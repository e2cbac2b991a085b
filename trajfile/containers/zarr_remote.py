"""Trajectories in a store: the objects of `trajfile.containers.zarr`, one a row and shard.

The root's document is put last when a trajectory is made, and nothing has another name before: a
store cannot rename.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import cast

from trajfile.containers.bucket import Bucket, not_hdf5
from trajfile.containers.identity import Attributes, new_identity, refuse_append
from trajfile.containers.journal import Journal
from trajfile.containers.lease import LEASE, Lease
from trajfile.containers.objects import Objects
from trajfile.containers.zarr import lay_out, read_identity
from trajfile.containers.zarr_documents import DOCUMENT
from trajfile.containers.zarr_remote_store import RemoteStore
from trajfile.errors import NotATrajectory, UsageError
from trajfile.schema import Manifest

#: What a trajectory consists of, right below its address.
_PARTS = {DOCUMENT, "manifest", "commits", "scalars", "streams", LEASE, "conversion.json"}


def open_remote(url: str, *, writable: bool = False) -> Journal:
    """Open a trajectory in a store.

    Args:
        url: ``s3://bucket/path/run.zarr``.
        writable: Whether to append to it.

    Returns:
        The container; rows are read by requests for their ranges, several at a time.

    Raises:
        NotATrajectory: If there is nothing of ours.
        Unreachable: If the store does not answer, or refuses to; a `ResourceError` if it was to be
            written.
        ResourceError: If another writer has it.
        UsageError: If the address is none.
    """
    not_hdf5(url)
    bucket = Bucket(url, writing=writable)
    objects = Objects(bucket)
    try:
        try:
            identity = read_identity(cast("Path", objects.root), objects)
        except NotATrajectory:
            if not any(bucket.entries(bucket.prefix)):
                raise NotATrajectory(
                    f"{bucket.url}: there is nothing at this address", path=url, rule="CORE-001"
                ) from None
            raise
        if writable:
            refuse_append(identity, bucket.url)
            objects = Objects(bucket, Lease(bucket))
        store = RemoteStore(objects, identity, writable=writable)
        return Journal(store, writable=writable, power=False)
    except BaseException:
        objects.close()
        raise


def exists_remote(url: str) -> bool:
    """Whether there is a trajectory, or whatever else has its document, at an address."""
    bucket = Bucket(url, writing=True)
    try:
        return bucket.exists(bucket.prefix / DOCUMENT)
    finally:
        bucket.close()


def create_remote(
    url: str, manifest: Manifest, *, compression: str | None, uuid: str | None, replace: bool
) -> Journal:
    """Create a trajectory in a store; see `trajfile.containers.create`."""
    identity = new_identity(uuid)
    bucket = Bucket(url, writing=True)
    try:
        lease = Lease(bucket)
    except BaseException:
        bucket.close()
        raise
    store = _begin(Objects(bucket, lease), manifest, identity, compression, replace=replace)
    try:
        store.put_root(identity)
        return Journal(store, writable=True, power=False)
    except BaseException:
        store.undo()
        raise


class Draft:
    """A trajectory being made in a store, of which nobody takes notice before `publish`.

    Args:
        url: The address.
        lease: Held there meanwhile.
    """

    def __init__(self, url: str, lease: Lease) -> None:
        self._url, self._lease = url, lease

    def is_published(self) -> bool:
        """Whether there is a trajectory already."""
        return exists_remote(self._url)

    def begin(
        self, manifest: Manifest, identity: Attributes, compression: str | None, *, replace: bool
    ) -> RemoteStore:
        """Make the arrays; `replace` as in `trajfile.containers.create`."""
        return _begin(self._objects(), manifest, identity, compression, replace=replace)

    def again(self, identity: Attributes) -> RemoteStore:
        """The arrays that were made before, to be written on."""
        return RemoteStore(self._objects(), identity, writable=True, new=True)

    def open(self, identity: Attributes) -> Journal:
        """What was committed, for reading."""
        store = RemoteStore(Objects(Bucket(self._url)), identity, writable=False)
        try:
            return Journal(store, writable=False, power=False)
        except BaseException:
            store.close()
            raise

    def publish(self, identity: Attributes) -> None:
        """Put the document of the root, which makes it a trajectory."""
        store = RemoteStore(self._objects(), identity, writable=True, new=True)
        store.put_root(identity)
        store.close()

    def discard(self) -> None:
        """Delete it."""
        objects = self._objects()
        objects.clear()
        objects.close()

    def _objects(self) -> Objects:
        return Objects(Bucket(self._url, writing=True), self._lease, lent=True)


def _begin(
    objects: Objects,
    manifest: Manifest,
    identity: Attributes,
    compression: str | None,
    *,
    replace: bool,
) -> RemoteStore:
    """Make the arrays of a trajectory, without the document of the root.

    Args:
        objects: Where; closed if that fails.
        manifest: The first revision.
        identity: The root attributes.
        compression: How lanes are compressed.
        replace: Whether a trajectory there may be deleted.

    Returns:
        The arrays, to be written.
    """
    try:
        _clear(objects, replace=replace)
        store = RemoteStore(objects, identity, writable=True, new=True)
    except BaseException:
        objects.close()
        raise
    try:
        lay_out(store, manifest, compression)
    except BaseException:
        store.undo()
        raise
    return store


def _clear(objects: Objects, *, replace: bool) -> None:
    """Make room: what a killed writer left of a creation goes, and a trajectory if it may."""
    bucket = objects.bucket
    folders, found = bucket.entries(bucket.prefix)
    names = {PurePosixPath(folder).name for folder in folders}
    names |= {PurePosixPath(one["path"]).name for one in found}
    if DOCUMENT in names and not replace:
        raise UsageError(f"{bucket.url} exists already: choose another name, or append to it")
    if names - _PARTS:
        strange = sorted(names - _PARTS)[0]
        raise UsageError(
            f"{bucket.url} holds what is no part of a trajectory ({strange}): choose another name"
        )
    if names - {LEASE}:
        objects.clear()
