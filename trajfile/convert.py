"""Copying trajectories: to another container, some of their steps and tensors, or parts as one.

The copy grows in a folder beside its place, ``OUT.partial``, and moves there once its digest is
that of what was copied (in a store it becomes a trajectory then). So what stands at OUT is always
whole, and a conversion that was cut short goes on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Event
from typing import TYPE_CHECKING, Any, Literal, get_args

from trajfile.containers import Compression, check_options, exists
from trajfile.containers.base import Container
from trajfile.containers.bulk import Block, Bulk
from trajfile.containers.digest import digest
from trajfile.containers.identity import Attributes, new_identity
from trajfile.errors import Damaged, FormatError, UsageError
from trajfile.paths import run_path
from trajfile.reader import open_trajectory
from trajfile.replaceable import check_replaceable
from trajfile.schema import ARCHIVE
from trajfile.source import Source, source_of
from trajfile.unfinished import Unfinished

if TYPE_CHECKING:
    from trajfile.unfinished_remote import UnfinishedRemote

Progress = Callable[[int, int], None]
Layout = Literal["rows", "archive"]

#: Bytes copied between two notes of how far the copy is.
_NOTED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote.

    Attributes:
        path: Where; an address in a store as text.
        kind: ``hdf5`` or ``zarr``.
        uuid: Its identity: the source's if all of one source was copied.
        digest: The logical digest of what was copied and of the copy, 64 hexadecimal digits.
        commits: How many commits it holds.
        rows: Rows of each stream.
        raw_bytes: Bytes of all rows, uncompressed.
        source_bytes: Bytes of the sources on disk.
        stored_bytes: Its own bytes on disk.
        resumed_bytes: Of the raw bytes, those that an interrupted run had copied before.
    """

    path: Path | str
    kind: str
    uuid: str
    digest: str
    commits: int
    rows: dict[str, int]
    raw_bytes: int
    source_bytes: int
    stored_bytes: int
    resumed_bytes: int


def convert(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    params: Sequence[str] | str | None = None,
    steps: slice | str | None = None,
    layout: Layout = "rows",
    compression: Compression | Literal["none"] = None,
    overwrite: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Copy a trajectory, bit for bit, and prove that the copy says the same.

    A copy of all of one source keeps its identity: the uuid, the steps and times of commits, the
    metadata. A slice, and several sources as one, get a uuid of their own, which follows from what
    was asked of which source, and say in ``metadata["converted_from"]`` what they are of.

    Run again after an interruption, of whatever kind, the same call goes on where it was. Memory is
    bounded, whatever the size of a row.

    Args:
        source: A trajectory; or several, which are taken for consecutive parts of one run: their
            steps must not overlap, and none may lack a tensor that an earlier one recorded.
        out: Where: ``.h5`` or ``.hdf5`` makes an HDF5 file, ``.zarr`` a Zarr v3 folder, which may
            lie in a store, ``s3://bucket/run.zarr``.
        params: Globs over tensor names, applied to every stream; all by default.
        steps: Which steps: a slice of step values or its text ``a:b:s``; all by default.
        layout: ``rows``: as recorded, and more can be appended. ``archive``: chunks span several
            steps, which lie closer together than the coordinates of one and so take less room
            compressed; nothing can be appended.
        compression: ``zstd``, ``gzip`` or ``none``; by default none of rows, zstd of an archive.
        overwrite: Whether to replace a trajectory at ``out``, once the copy is whole; in a store,
            which cannot rename, before it is begun.
        trust: Whether to run code that checkpoints name; see `trajfile.open`.
        progress: Called with the bytes done and the bytes in all; reading back counts too.

    Returns:
        What was written.

    Raises:
        UsageError: If an argument names nothing, sources do not follow one another, or there is
            something at ``out``.
        FormatError: If a source cannot be read.
        Damaged: If the copy does not say what the source says.
        ResourceError: If the disk is full, or another conversion writes to ``out``.
        KeyboardInterrupt: If it was interrupted, saying how to go on.
    """
    target = run_path(out)
    paths = _paths(source)
    if layout not in get_args(Layout):
        raise UsageError(f"layout {layout!r} is unknown: use 'rows' or 'archive'")
    packed = _compression(layout, compression)
    check_options(target, compression=packed, durability="process")
    _check_place(target, paths, overwrite=overwrite)
    with ExitStack() as opened:
        runs = [opened.enter_context(open_trajectory(path, trust=trust)) for path in paths]
        containers = [run.container for run in runs]
        asked = source_of(containers, params=params, steps=steps)
        settings = {"suffix": PurePosixPath(target).suffix, "layout": layout, "compression": packed}
        unfinished = _unfinished(target, {**asked.facts, **settings}, overwrite=overwrite)
        opened.enter_context(unfinished)
        try:
            new = _New(asked, packed, archive=layout == "archive")
            return _convert(new, target, unfinished, progress or _silent)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted; the same command goes on from here, or remove {unfinished.folder}"
            ) from None


@dataclass(frozen=True)
class _New:
    """What is written, and how."""

    source: Source
    compression: Compression
    archive: bool

    @property
    def identity(self) -> Attributes:
        return new_identity(self.source.uuid, (ARCHIVE,) if self.archive else ())

    def bulk(self, unfinished: Unfinished | UnfinishedRemote, *, again: bool) -> Bulk:
        manifest = self.source.manifest
        store = unfinished.store(manifest, self.identity, self.compression, again=again)
        return Bulk(store, manifest)


def _unfinished(
    target: Path | str, facts: dict[str, Any], *, overwrite: bool
) -> Unfinished | UnfinishedRemote:
    if isinstance(target, Path):
        return Unfinished(target, facts)
    from trajfile.unfinished_remote import UnfinishedRemote

    return UnfinishedRemote(target, facts, replace=overwrite)


def _convert(
    new: _New, target: Path | str, unfinished: Unfinished | UnfinishedRemote, progress: Progress
) -> Converted:
    view = new.source.view
    streams = view.manifest().streams
    raw = sum(stream.row_bytes * view.committed_rows(stream.name) for stream in streams)
    note = _Progress(progress, raw)
    bulk = _begun(new, unfinished)
    try:
        resumed = _copy(bulk, view, unfinished, note)
        bulk.commit(view)
    finally:
        bulk.close()
    found = _verify(new, unfinished, note)
    copy = unfinished.open(new.identity)
    done = Converted(
        path=target,
        kind=copy.kind,
        uuid=copy.uuid,
        digest=found,
        commits=len(copy.commits()),
        rows={stream.name: copy.committed_rows(stream.name) for stream in streams},
        raw_bytes=raw,
        source_bytes=view.stored_bytes(),
        stored_bytes=copy.stored_bytes(),
        resumed_bytes=resumed,
    )
    copy.close()
    unfinished.finish(new.identity)
    return done


def _begun(new: _New, unfinished: Unfinished | UnfinishedRemote) -> Bulk:
    """The copy, taken up where it is or new."""
    if unfinished.copied is not None:
        try:
            return new.bulk(unfinished, again=True)
        except FormatError:  # cut short while it was being made, or damaged
            unfinished.restart()
    return new.bulk(unfinished, again=False)


def _copy(
    bulk: Bulk, view: Container, unfinished: Unfinished | UnfinishedRemote, note: _Progress
) -> int:
    """Copy the blocks that are not there yet; the bytes of those that were."""
    blocks = bulk.blocks(view)
    before = blocks[: unfinished.copied or 0]
    note(sum(block.nbytes for block in before))
    unfinished.note(len(before))
    pending: list[Block] = []
    number = len(before)

    def settle() -> None:
        bulk.flush(pending)
        unfinished.note(number)
        pending.clear()

    try:
        for block in blocks[len(before) :]:
            bulk.copy(view, block)
            pending.append(block)
            number += 1
            note(block.nbytes)
            if sum(one.nbytes for one in pending) >= _NOTED_BYTES:
                settle()
    except KeyboardInterrupt:
        settle()
        raise
    settle()
    return sum(block.nbytes for block in before)


def _verify(new: _New, unfinished: Unfinished | UnfinishedRemote, note: _Progress) -> str:
    """Read both whole and compare; the digest."""
    view, copy = new.source.view, unfinished.open(new.identity)
    stopped = Event()

    def go_on(_: int) -> None:
        if stopped.is_set():
            raise InterruptedError

    try:
        with ThreadPoolExecutor(1) as pool:
            expected = pool.submit(digest, view, go_on)
            try:
                found = digest(copy, note)
            except BaseException:
                stopped.set()  # or leaving the pool would wait for all of the source
                raise
        if found == expected.result():
            return found
    finally:
        copy.close()
    unfinished.discard()
    raise Damaged(
        f"the copy of {view.path} does not say the same as it ({found[:12]}… instead of "
        f"{expected.result()[:12]}…) and was removed: the source changed meanwhile, or the disk "
        "lost data; run it again",
        path=view.path,
    )


class _Progress:
    """Counts the bytes that were copied and those that were read back."""

    def __init__(self, progress: Progress, raw: int):
        self._progress, self._total, self._done = progress, 2 * raw, 0

    def __call__(self, nbytes: int) -> None:
        self._done += nbytes
        self._progress(min(self._done, self._total), self._total)


def _compression(layout: Layout, compression: Compression | Literal["none"]) -> Compression:
    if compression is None and layout == "archive":
        return "zstd"
    return None if compression == "none" else compression


def _silent(done: int, total: int) -> None:
    del done, total


def _paths(source: object) -> list[Path | str]:
    if isinstance(source, (str, os.PathLike)):
        return [run_path(source)]
    paths = [run_path(path) for path in source] if isinstance(source, Iterable) else []
    if not paths:
        raise UsageError("there is nothing to convert: give the path of a run, or several")
    return paths


def _check_place(target: Path | str, paths: list[Path | str], *, overwrite: bool) -> None:
    """Refuse before the work what would have no place after it."""
    if isinstance(target, str):
        if target.rstrip("/") in [str(path).rstrip("/") for path in paths]:
            raise UsageError(f"{target} is what is to be converted: give the copy another name")
        _check_free(target, overwrite=overwrite)
        return
    if not target.parent.is_dir():
        raise UsageError(f"{target.parent} is not a folder: create it first")
    local = [path for path in paths if isinstance(path, Path) and path.exists()]
    if target.exists() and any(path.samefile(target) for path in local):
        raise UsageError(f"{target} is what is to be converted: give the copy another name")
    _check_free(target, overwrite=overwrite)


def _check_free(target: Path | str, *, overwrite: bool) -> None:
    if not exists(target):
        return
    if not overwrite:
        raise UsageError(
            f"{target} exists already: pass --overwrite (overwrite=True) to replace it, or give "
            "the copy another name"
        )
    check_replaceable(target)
