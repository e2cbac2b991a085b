"""What an audit is asked to look at: files, folders, globs and lists of them, one by one.

Inputs are found as they are wanted and never listed whole: an inventory may have a hundred
thousand.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from trajfile.audit.sifting import Seen, in_order
from trajfile.errors import UsageError

_SUFFIXES = {".h5", ".hdf5", ".zarr"}
#: What lies in a folder that is one checkpoint: of PyTorch's distributed ones, and of Orbax.
_MARKS = {".metadata", "_CHECKPOINT_METADATA", "_METADATA"}
_CHECKPOINTS = {".pt", ".pth", ".ckpt", ".safetensors", ".npz", ".index", ".bin"}


def inputs(paths: Iterable[str], *, stdin: Iterable[str] = ()) -> Iterator[str]:
    """The inputs that some arguments name, each once, in order.

    An argument is a trajectory or checkpoint folder; any other folder, which is searched for
    trajectories and checkpoint folders; a glob; ``@list.txt``, a text file with one such argument
    a line (blank lines and those after ``#`` skipped); or ``-``, the same from standard input. A
    path that is not there is an input too: that it is missing is a finding. Addresses ``s3://``
    are looked at alike.

    Args:
        paths: The arguments.
        stdin: Lines of standard input.

    Yields:
        Paths, as text.

    Raises:
        UsageError: If a list cannot be read, or an argument is empty.
    """
    with closing(Seen()) as seen:
        for path in _found(paths, stdin):
            if seen.is_new(path):
                yield path


def _found(paths: Iterable[str], stdin: Iterable[str]) -> Iterator[str]:
    for path in paths:
        if not path:
            raise UsageError("an input is empty; give the path of a run, a folder or @LIST")
        if path == "-":
            yield from _found(_lines(stdin), ())
        elif path.lower().startswith("s3://"):
            yield from _stored(path)
        elif path.startswith("@"):
            yield from _listed(Path(path[1:]))
        elif glob.has_magic(path) and not Path(path).exists():
            yield from _matching(path)
        elif Path(path).is_dir() and Path(path).suffix.lower() not in _SUFFIXES:
            yield from _walked(path)
        else:
            yield path


def _matching(pattern: str) -> Iterator[str]:
    found = False
    # Path.glob takes no absolute pattern.
    for path in in_order(glob.iglob(pattern, recursive=True)):  # noqa: PTH207
        found = True
        yield from _found([glob.escape(path) if glob.has_magic(path) else path], ())
    if not found:
        raise UsageError(f"{pattern} matches nothing; quote it if the shell is to leave it alone")


def _listed(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as file:
            yield from _found(_lines(file), ())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the list {path} cannot be read: {error}") from error


def _lines(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        text = line.strip()
        if text and not text.startswith("#"):
            yield text


def _stored(url: str) -> Iterator[str]:
    """Trajectories and folders of safetensors below an address of a store."""
    from trajfile.containers.bucket import Bucket, Unreachable

    name = url.rstrip("/").lower()
    if name.endswith((*_SUFFIXES, ".safetensors")):
        yield url
        return
    try:
        bucket = Bucket(url)
        folders, objects = bucket.entries(bucket.prefix)
    except (Unreachable, OSError):
        yield url  # that it cannot be looked at is a finding
        return
    root = bucket.url[: len(bucket.url) - len(str(bucket.prefix))]
    held = any(entry["path"].endswith(".safetensors") for entry in objects)
    if held or any("/checkpoint-" in f"/{folder}" for folder in folders) or not folders:
        yield url
    else:
        for folder in folders:
            yield from _stored(f"{root}{folder}")


def _walked(top: str) -> Iterator[str]:
    """Trajectories and checkpoint folders below a folder, links not followed."""
    if _is_checkpoints(top):
        yield top  # the importers tell its kind; what they refuse is a finding
        return
    for name in in_order(_runs(top)):
        yield str(Path(top, name))
    for name in in_order(_folders(top)):
        yield from _walked(str(Path(top, name)))


def _is_checkpoints(top: str) -> bool:
    with os.scandir(top) as entries:
        return any(
            entry.name.startswith("checkpoint-") or _is_step(entry)
            if entry.is_dir(follow_symlinks=False)
            else _suffix(entry.name) in _CHECKPOINTS or entry.name in _MARKS
            for entry in entries
        )


def _is_step(folder: os.DirEntry[str]) -> bool:
    """Whether a folder is one checkpoint of several, each in a folder named by its step."""
    if not any(character.isdigit() for character in folder.name):
        return False
    return any(Path(folder.path, mark).exists() for mark in _MARKS)


def _runs(top: str) -> Iterator[str]:
    with os.scandir(top) as entries:
        yield from (entry.name for entry in entries if _suffix(entry.name) in _SUFFIXES)


def _folders(top: str) -> Iterator[str]:
    """Folders that may hold runs."""
    with os.scandir(top) as entries:
        for entry in entries:
            is_run = _suffix(entry.name) in _SUFFIXES or entry.name.startswith(".")
            if not is_run and entry.is_dir(follow_symlinks=False):
                yield entry.name


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - a path object costs ten times as much
