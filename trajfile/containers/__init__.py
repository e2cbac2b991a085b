"""How trajectories are stored: HDF5, Zarr v3 and memory, behind one protocol."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from trajfile.errors import NotATrajectory, UsageError
from trajfile.paths import in_store
from trajfile.schema import Manifest

if TYPE_CHECKING:
    from trajfile.containers.journal import Journal

Compression = Literal["zstd", "gzip"] | None
Durability = Literal["process", "power"]

_HDF5_SUFFIXES = {".h5", ".hdf5"}
_ZARR_SUFFIXES = {".zarr"}


def create(
    path: str | Path,
    manifest: Manifest,
    *,
    compression: Compression = None,
    durability: Durability = "process",
    uuid: str | None = None,
    replace: bool = False,
) -> Journal:
    """Create an empty trajectory that can be appended to.

    Args:
        path: Must not exist. The suffix picks the container: ``.h5`` or ``.hdf5`` for HDF5,
            ``.zarr`` for Zarr v3, which may also lie in a store, at ``s3://bucket/run.zarr``.
        manifest: The first revision; its streams are all there will ever be.
        compression: How lanes are compressed.
        durability: ``process`` survives a kill; ``power`` also forces each commit to the disk.
        uuid: Of the trajectory that it will be a copy of; a new one by default.
        replace: Whether a trajectory that is there may be deleted first.

    Returns:
        The container, open for appending.

    Raises:
        UsageError: If the suffix is neither, an option is unknown, the path exists, or the folder
            that is to hold it does not.
    """
    url = in_store(path)
    check_options(url or Path(path), compression=compression, durability=durability)
    if url is not None:
        from trajfile.containers.zarr_remote import create_remote

        return create_remote(url, manifest, compression=compression, uuid=uuid, replace=replace)
    path = Path(path)
    if replace:
        remove(path)
    if path.is_symlink() or path.exists():
        raise UsageError(f"{path} exists already: choose another name, or append to it")
    if not path.parent.is_dir():
        raise UsageError(f"the folder {path.parent} does not exist: make it first")
    if is_hdf5(path):
        from trajfile.containers.hdf5 import create_hdf5

        return create_hdf5(
            path, manifest, compression=compression, durability=durability, uuid=uuid
        )
    from trajfile.containers.zarr import create_zarr

    return create_zarr(path, manifest, compression=compression, durability=durability, uuid=uuid)


def is_hdf5(path: Path | str) -> bool:
    """Whether a trajectory to be created at a path is an HDF5 file, by its suffix."""
    return PurePosixPath(path).suffix.lower() in _HDF5_SUFFIXES


def exists(path: Path | str) -> bool:
    """Whether there is something at a path, or a trajectory at an address.

    Args:
        path: A path, or ``s3://bucket/run.zarr``.

    Returns:
        Whether there is; a link counts, wherever it leads.

    Raises:
        ResourceError: If the store does not answer.
        UsageError: If the address is none.
    """
    if isinstance(path, Path):
        return path.is_symlink() or path.exists()
    from trajfile.containers.zarr_remote import exists_remote

    return exists_remote(path)


def check_options(path: Path | str, *, compression: Compression, durability: Durability) -> None:
    """Check what `create` would refuse before there is anything to create.

    Args:
        path: Where the trajectory will lie; it may exist.
        compression: As in `create`.
        durability: As in `create`.

    Raises:
        UsageError: If the suffix names no container or an option is unknown.
    """
    if compression not in {None, "zstd", "gzip"}:
        raise UsageError(f"compression {compression!r} is unknown: use None, 'zstd' or 'gzip'")
    _check_durability(durability)
    suffix = PurePosixPath(path).suffix
    if suffix.lower() not in _HDF5_SUFFIXES | _ZARR_SUFFIXES:
        raise UsageError(
            f"{path} has suffix {suffix!r}, which names no container: use .h5 or .hdf5 for "
            "HDF5, or .zarr for Zarr"
        )
    if isinstance(path, str) and is_hdf5(path):
        raise UsageError(
            f"{path}: in a store only Zarr can be written, as HDF5 is one object that cannot be "
            "changed in part; call it .zarr"
        )


def load(path: Path | str) -> None:
    """Import what writes to a path, so that the first append need not.

    Args:
        path: As `check_options` lets pass.
    """
    there = "zarr" if isinstance(path, Path) else "zarr_remote"
    import_module("trajfile.containers." + ("hdf5" if is_hdf5(path) else there))


def open_container(
    path: str | Path, *, writable: bool = False, durability: Durability = "process"
) -> Journal:
    """Open a trajectory as of its last commit.

    A folder is taken for Zarr and a file for HDF5, whatever they are called.

    Args:
        path: The file or folder, or the address of a Zarr folder in a store.
        writable: Whether to append to it.
        durability: As in `create`; matters only for appending.

    Returns:
        The container. What is committed by others after this call is seen on opening again.

    Raises:
        NotATrajectory: If there is nothing, or nothing of ours, at the path.
    """
    _check_durability(durability)
    url = in_store(path)
    if url is not None:
        from trajfile.containers.zarr_remote import open_remote

        return open_remote(url, writable=writable)
    path = Path(path)
    if not path.exists():
        raise NotATrajectory(f"{path}: no such file or folder", path=path, rule="CORE-001")
    if path.is_dir():
        from trajfile.containers.zarr import open_zarr

        return open_zarr(path, writable=writable, durability=durability)
    from trajfile.containers.hdf5 import open_hdf5

    return open_hdf5(path, writable=writable, durability=durability)


def remove(path: Path) -> None:
    """Delete a file, a folder or a link, if it is there.

    Args:
        path: Which; of a link, itself and not where it leads.

    Raises:
        OSError: If it cannot be deleted.
    """
    if path.is_dir() and not path.is_symlink():
        import shutil

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _check_durability(durability: str) -> None:
    if durability not in {"process", "power"}:
        raise UsageError(f"durability {durability!r} is unknown: use 'process' or 'power'")
