"""Folders of checkpoints as trajectories: read in place, without conversion.

`open_source` is how everything else opens a path that may be either: a recorded trajectory, or
checkpoints that some other program saved.
"""

from __future__ import annotations

import os
from pathlib import Path

from trajfile.containers import open_container
from trajfile.containers.base import Container
from trajfile.errors import NotATrajectory, UsageError

# The second is there before the first while a trajectory is being created.
_ZARR_DOCUMENTS = ("zarr.json", "manifest/zarr.json")

#: A file of such a name is a trajectory, unless it ends as Keras' weights do.
_TRAJECTORIES = (".h5", ".hdf5")
_KERAS = ".weights.h5"

#: How the kind of every container of checkpoints ends: ``torch checkpoints``.
CHECKPOINTS = " checkpoints"


def open_source(path: Path, *, trust: bool = False) -> Container:
    """Open a trajectory or a folder of checkpoints for reading.

    Args:
        path: A trajectory of HDF5 or Zarr, a checkpoint, a folder of checkpoints, or a pattern
            such as ``ckpts/*.pt`` that names some of them.
        trust: Whether code that checkpoints name may be run; see `trajfile.importers.trusted`.

    Returns:
        The container.

    Raises:
        NotATrajectory: If there is nothing, or nothing that can be read, at the path.
    """
    return open_checkpoints(path, trust=trust) if is_checkpoints(path) else open_container(path)


def open_any(path: Path | str, *, trust: bool = False) -> Container:
    """Open a path or, if it is text, an address in a store; see `open_source` and `open_url`."""
    return open_url(path) if isinstance(path, str) else open_source(path, trust=trust)


def check_trust(*, untrusted: object, trust: bool) -> None:
    """Refuse a source that is at once a stranger's and to be trusted.

    Args:
        untrusted: Whether it is to be read in a process apart.
        trust: Whether code that it names may be run.

    Raises:
        UsageError: If both.
    """
    if untrusted and trust:
        raise UsageError(
            "--trust runs code that a file names, and --untrusted is for files of strangers: give "
            "one of them"
        )


def open_url(url: str) -> Container:
    """Open what lies in an S3-compatible store: a Zarr trajectory, or safetensors.

    Args:
        url: ``s3://bucket/path``.

    Returns:
        The container.

    Raises:
        NotATrajectory: If there is neither.
        Unreachable: If the store does not answer, or refuses to.
        UsageError: If the address is none, or the library for stores is not installed.
    """
    from trajfile.containers.bucket import not_hdf5
    from trajfile.containers.zarr_remote import open_remote
    from trajfile.importers.remote import open_remote_checkpoints

    not_hdf5(url)
    if url.lower().endswith(".safetensors"):
        return open_remote_checkpoints(url)
    if url.rstrip("/").lower().endswith(".zarr"):
        return open_remote(url)
    try:
        return open_remote(url)
    except NotATrajectory:
        return open_remote_checkpoints(url)


def is_checkpoints(path: Path) -> bool:
    """Whether a path is to be read as checkpoints and not as a recorded trajectory.

    Args:
        path: Any path.

    Returns:
        Of a folder, whether it is no Zarr hierarchy; of a file, whether it is a checkpoint by its
        name; of what does not exist, whether it is a pattern.
    """
    if path.is_dir():
        return not any(os.path.lexists(path / document) for document in _ZARR_DOCUMENTS)
    name = path.name.lower()
    if name.endswith(_TRAJECTORIES) and not name.endswith(_KERAS) and path.is_file():
        return False  # without looking up the kinds, which takes as long as reading the header
    from trajfile.importers.kinds import kind_of

    if path.exists():
        return kind_of(path) is not None
    return any(sign in path.name for sign in "*?[") and path.parent.is_dir()


def open_checkpoints(path: Path, *, trust: bool = False) -> Container:
    """Open a checkpoint, a folder of checkpoints or a pattern; see `open_source`."""
    from trajfile.importers.container import CheckpointContainer
    from trajfile.importers.files import Files
    from trajfile.importers.folder import read_folder

    files = Files(trust=trust)
    try:
        return CheckpointContainer(path, read_folder(path, files), files)
    except BaseException:
        files.close()
        raise
