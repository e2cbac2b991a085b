"""Safetensors in an S3-compatible store, read by requests for ranges."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Container
from trajfile.containers.bucket import Bucket
from trajfile.errors import NotATrajectory
from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.container import CheckpointContainer
from trajfile.importers.files import File, Files
from trajfile.importers.folder import ordered
from trajfile.importers.refusal import half_written
from trajfile.importers.safetensors import read_file
from trajfile.importers.steps import natural

_SUFFIX = ".safetensors"
_FOLDER = re.compile(r"(?:checkpoint|step)[-_]\d+")


class RemoteFiles(Files):
    """Objects of a store in place of files.

    Args:
        bucket: Where.
    """

    def __init__(self, bucket: Bucket) -> None:
        super().__init__()
        self._bucket = bucket

    def read(self, file: File, offset: int, out: NDArray[Any]) -> None:
        """Fill an array with the bytes from an offset on."""
        if not out.nbytes:
            return
        view = out.reshape(-1).view(np.uint8)
        found = self._bucket.range(PurePosixPath(str(file.path)), offset, len(view))
        if len(found) != len(view):
            half_written(file.path, f"expected {len(view)} bytes at {offset}, found {len(found)}")
        view[:] = np.frombuffer(found, np.uint8)

    def each(self, jobs: Iterable[Callable[[], None]]) -> None:
        """Do jobs, several at a time: each waits for its own request."""
        for _ in self._bucket.pool.map(lambda job: job(), jobs):
            pass

    def close(self) -> None:
        """Let go of the store."""
        self._bucket.close()


def open_remote_checkpoints(url: str) -> Container:
    """Open safetensors in a store: one object, or all of a folder.

    Args:
        url: ``s3://bucket/path/model.safetensors``, or a folder that holds such objects, or
            folders ``checkpoint-100`` with one ``model.safetensors`` each.

    Returns:
        The container.

    Raises:
        NotATrajectory: If there is none.
        Unreachable: If the store does not answer, or refuses to.
    """
    bucket = Bucket(url)
    files = RemoteFiles(bucket)
    try:
        read = [read_file(file, files) for file in _listed(bucket)]
        found = ordered(Path(str(bucket.prefix)), [_named(each) for each in read], {})
        container = CheckpointContainer(Path(str(bucket.prefix)), found, files)
    except BaseException:
        files.close()
        raise
    container.path = bucket.url
    return container


def _listed(bucket: Bucket) -> list[File]:
    if bucket.prefix.suffix == _SUFFIX:
        try:
            return [File(Path(str(bucket.prefix)), bucket.size(bucket.prefix), 0)]
        except FileNotFoundError:
            _none(bucket.url)
    chosen = []
    for found in bucket.below(bucket.prefix):
        path = PurePosixPath(found["path"])
        beside = path.parent == bucket.prefix
        within = path.parent.parent == bucket.prefix and _FOLDER.fullmatch(path.parent.name)
        if path.suffix == _SUFFIX and (beside or within):
            written = int(found["last_modified"].timestamp() * 1e9)
            chosen.append(File(Path(str(path)), int(found["size"]), written))
    if not chosen:
        _none(bucket.url)
    return sorted(chosen, key=lambda file: natural(str(file.path)))


def _none(url: str) -> NoReturn:
    raise NotATrajectory(
        f"{url}: there is no Zarr trajectory, and no object ends in {_SUFFIX}; other kinds of "
        "checkpoints are read from a local folder",
        path=url,
        rule="CORE-001",
    )


def _named(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint in a folder of its own is named after the folder."""
    parent = checkpoint.path.parent
    return replace(checkpoint, path=parent) if _FOLDER.fullmatch(parent.name) else checkpoint
