"""Opening an HDF5 file that may be unfinished, foreign, damaged or hostile.

The superblock is read first with plain file operations; the library is let in only where that is
known to end well. Then every link is looked at before anything behind it is opened.
"""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path
from typing import NamedTuple, NoReturn

import h5py
from h5py import h5d, h5f, h5g, h5l, h5s, h5z

from trajfile.containers.hdf5_index import walk
from trajfile.containers.hdf5_types import ZSTD_FILTER
from trajfile.containers.hdf5_view import ClosedView
from trajfile.containers.regular import open_regular
from trajfile.containers.writer_lock import WriterLock
from trajfile.errors import Damaged, NotATrajectory, Unsafe

SIGNATURE = b"\x89HDF\r\n\x1a\n"
#: Size of a superblock of version 2 or 3 with addresses of 8 bytes.
SUPERBLOCK_BYTES = 48

_ALLOWED_FILTERS = {
    h5z.FILTER_SHUFFLE,
    h5z.FILTER_FLETCHER32,
    h5z.FILTER_DEFLATE,
    ZSTD_FILTER,
}
_MAX_OBJECTS = 100_000
_PATIENCE = (0.01, 0.05, 0.2, 0.5)  # seconds between looks at a file that is being written
_MAX_DEPTH = 32
_WRITING = 0x01
_SWMR = 0x04


class Superblock(NamedTuple):
    """What the first bytes of an HDF5 file say.

    Attributes:
        version: Of the superblock; 3 in files of ours.
        writing: A writer has, or had, the file open.
        swmr: It is, or was, appending in single-writer mode, which readers may join.
        end: End-of-file address as of the last clean state; 0 before version 2.
    """

    version: int
    writing: bool
    swmr: bool
    end: int


def read_superblock(path: Path) -> Superblock:
    """Read the superblock.

    Args:
        path: The file.

    Returns:
        What it says.

    Raises:
        NotATrajectory: If it is not HDF5. A file shorter than it says is `Damaged`.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        head = file.read(SUPERBLOCK_BYTES)
        size = os.fstat(file.fileno()).st_size
    if not head.startswith(SIGNATURE):
        raise NotATrajectory(
            f"{path} is not an HDF5 file: it does not begin with the HDF5 signature",
            path=path,
            rule="CORE-002",
        )
    if len(head) < SUPERBLOCK_BYTES:
        cut_short(path, f"{size} bytes do not hold a superblock")
    version, flags = head[8], head[11]
    if version < 2:
        return Superblock(version, writing=False, swmr=False, end=0)
    (end,) = struct.unpack_from("<Q", head, 28)
    if size < end:
        cut_short(path, f"expected {end} bytes, found {size}")
    return Superblock(version, bool(flags & _WRITING), bool(flags & _SWMR), end)


def cut_short(path: Path, what: str, cause: Exception | None = None) -> NoReturn:
    """Report a file that is cut short or that the HDF5 library cannot make sense of."""
    raise Damaged(
        f"{path} is truncated or damaged: {what}; restore it from a copy, or save what is whole "
        "with `trajfile repair`",
        path=path,
        rule="CORE-006",
    ) from cause


def open_for_reading(path: Path) -> h5py.File:
    """Open the file read-only, also while a writer appends or after it was killed.

    Args:
        path: The file.

    Returns:
        The open file, its links not yet checked.

    Raises:
        Damaged: If its creation was not finished, or the library cannot open it.
    """
    superblock = read_superblock(path)
    if superblock.writing and not superblock.swmr:
        raise Damaged(
            f"{path} is being created, or its writer was killed before the first step: wait, or "
            "delete it if no program is writing it",
            path=path,
            rule="CORE-012",
        )
    try:
        if superblock.swmr:
            return _open_unclosed(path)
        return h5py.File(path, "r")
    except (OSError, RuntimeError) as error:
        cut_short(path, " ".join(str(error).split()), error)


def _open_unclosed(path: Path) -> h5py.File:
    """Open a file of single-writer mode: whose writer was killed, or is at work."""
    if WriterLock.is_held(path) is False:
        return h5py.File(ClosedView(path), "r")
    # In single-writer mode the library would look at damage again and again, for hours; so that
    # mode is entered only once every checksum of its metadata has been seen to hold.
    for patience in (*_PATIENCE, None):
        try:
            with h5py.File(ClosedView(path), "r") as file:
                _look_through(file)
            break
        except (OSError, RuntimeError):  # perhaps met in the middle of a write
            if patience is None:
                raise
            time.sleep(patience)
    file = h5py.File(path, "r", swmr=True)
    others = h5f.get_obj_count(file.id, h5f.OBJ_FILE) > 1
    if others and not file.id.get_intent() & h5f.ACC_RDWR:
        # This process reads it already. Both would see what the library has kept since then, which
        # it cannot drop while another has it open.
        file.close()
        return h5py.File(ClosedView(path, growing=True), "r")
    return file


def _look_through(file: h5py.File) -> None:
    """Read the headers and chunk indexes of everything that is linked in the ordinary way."""
    pending = [file.id]
    seen: set[object] = set()
    while pending and len(seen) < _MAX_OBJECTS:
        group = pending.pop()
        for raw in list(h5g.GroupIter(group)):
            if group.links.get_info(raw).type == h5l.TYPE_HARD:
                info = h5g.get_objinfo(group, raw)
                if info.type == h5g.GROUP and info.objno not in seen:
                    seen.add(info.objno)
                    pending.append(h5g.open(group, raw))
                elif info.type == h5g.DATASET:
                    walk(h5d.open(group, raw))


def check_links(file: h5py.File, path: Path) -> None:
    """Refuse whatever leads out of the file, before any of it is opened.

    Args:
        file: The open file.
        path: Where it lies.
    """
    # Not h5o.get_info: it sums up the chunk index of every array, and damage there ends in a
    # segmentation fault within the library.
    pending, seen = [("/", file.id)], {h5g.get_objinfo(file.id, b".").objno}
    while pending:
        prefix, group = pending.pop()
        if len(seen) + group.get_num_objs() > _MAX_OBJECTS:
            _refuse(path, prefix, f"makes it more than {_MAX_OBJECTS} objects", "H5-004")
        for raw in list(h5g.GroupIter(group)):
            place = prefix + raw.decode("utf-8", "backslashreplace")
            if group.links.get_info(raw).type != h5l.TYPE_HARD:
                _refuse(path, place, "is a soft, external or user-defined link", "H5-002")
            info = h5g.get_objinfo(group, raw)
            if info.objno in seen:
                _refuse(path, place, "is linked twice", "H5-003")
            if info.type == h5g.TYPE:
                _refuse(path, place, "is a committed datatype", "H5-005")
            seen.add(info.objno)
            if info.type == h5g.GROUP:
                if place.count("/") >= _MAX_DEPTH:
                    _refuse(path, place, f"is nested more than {_MAX_DEPTH} deep", "H5-004")
                pending.append((place + "/", h5g.open(group, raw)))


def check_version(path: Path) -> None:
    """Refuse a file whose superblock is not that of the format.

    Args:
        path: The file.

    Raises:
        Damaged: If it is of another version, or does not say where the file begins.
    """
    version = read_superblock(path).version
    if version != 3:
        raise Damaged(
            f"{path} has a superblock of version {version}, expected 3: write the file anew with "
            "a conforming writer",
            path=path,
            location="/",
            rule="H5-013",
        )


def check_storage(dataset: h5d.DatasetID, path: Path, place: str) -> tuple[int, ...]:
    """Refuse a dataset whose data lie elsewhere or pass through unknown code.

    Args:
        dataset: The dataset.
        path: The file.
        place: The dataset's place in it.

    Returns:
        The ids of its filters, in order.

    Raises:
        Damaged: If it is not chunked.
    """
    plist = dataset.get_create_plist()
    if plist.get_external_count() or plist.get_layout() == h5d.VIRTUAL:
        _refuse(path, place, "has external or virtual storage", "H5-001")
    filters = tuple(plist.get_filter(index)[0] for index in range(plist.get_nfilters()))
    unknown = [filter_id for filter_id in filters if filter_id not in _ALLOWED_FILTERS]
    if unknown:
        _refuse(path, place, f"passes through HDF5 filter {unknown[0]}", "H5-006")
    if dataset.get_type().committed():
        _refuse(path, place, "has a committed datatype", "H5-005")
    limits = dataset.get_space().get_simple_extent_dims(True)
    if plist.get_layout() != h5d.CHUNKED or limits[:1] != (h5s.UNLIMITED,):
        raise Damaged(
            f"{path}, {place}: the array is not chunked or cannot be extended, so rows cannot have "
            "been appended; write it with a conforming writer",
            path=path,
            location=place,
            rule="H5-009",
        )
    return filters


def _refuse(path: Path, place: str, what: str, rule: str) -> NoReturn:
    raise Unsafe(
        f"{path}, {place} {what}, which a safe reader does not follow: read only files from a "
        "conforming writer",
        path=path,
        location=place,
        rule=rule,
    )
