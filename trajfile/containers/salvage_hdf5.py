"""A damaged HDF5 file: what the library can still reach, without waiting and without writing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import h5py
import numpy as np
from h5py import h5g, h5l, h5t
from numpy.typing import NDArray

from trajfile.containers.hdf5_attributes import read_identity
from trajfile.containers.hdf5_damage import LIBRARY_FAILURES, failures_as_damage
from trajfile.containers.hdf5_open import SIGNATURE
from trajfile.containers.hdf5_store import Hdf5Store
from trajfile.containers.hdf5_view import ROOTS, ClosedView
from trajfile.containers.identity import Attributes
from trajfile.containers.lookup3 import lookup3
from trajfile.containers.proof import Notes
from trajfile.containers.regular import open_regular
from trajfile.containers.salvage_store import FIRST, Lane, lanes_of, tables_of
from trajfile.errors import Damaged, FormatError, NotATrajectory, Unsafe
from trajfile.schema import FORMAT, Manifest

_MOST_OBJECTS = 100_000


class DamagedHdf5(Hdf5Store):
    """The arrays of a damaged file, each opened for itself."""

    anonymous: FormatError | None = None

    def salvage(self, key: str) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """As much of a table as is there; only of one of numbers, for others lead elsewhere."""
        with failures_as_damage(self._path, f"/{key}"):
            numbers = self._datasets.get(key).get_type().get_class() in {h5t.INTEGER, h5t.FLOAT}
        if not numbers:
            raise self._datasets.wrong(key, "does not hold numbers", "DT-002")
        return super().salvage(key)

    def settle(self, first: Manifest, newest: Manifest) -> dict[Lane, FormatError]:
        """Take the arrays for what the manifest says; lanes that cannot be read, and why."""
        del first
        lost: dict[Lane, FormatError] = {}
        for spec in tables_of(newest):
            try:
                self.expect([spec])
            except Damaged:
                continue  # reading it will fail, and the commit records say what was there
        for lane, spec in lanes_of(newest):
            try:
                self.expect([spec])
            except Damaged as error:
                lost[lane] = error
        return lost


def open_damaged_hdf5(path: Path, notes: Notes) -> DamagedHdf5:
    """Open a damaged file; see `trajfile.containers.salvage_store.open_store`."""
    with os.fdopen(open_regular(path), "rb") as opened:
        head = opened.read(max(ROOTS) + 4)
        size = opened.seek(0, os.SEEK_END)
    if len(head) < min(ROOTS) + 4:
        _hopeless(path, f"{len(head)} bytes are not the beginning of a file")
    # Where its checksum fails, the superblock says nothing that counts.
    usual = lookup3(head[:44]) != int.from_bytes(head[44:48], "little")
    if not head.startswith(SIGNATURE) and all(head[at : at + 4] != b"OHDR" for at in ROOTS):
        raise NotATrajectory(
            f"{path} is not an HDF5 file: it does not begin with the HDF5 signature",
            path=path,
            rule="CORE-002",
        )
    try:
        file, identity = _opened(path, usual=usual)
    except (*LIBRARY_FAILURES, FormatError) as error:
        what = " ".join(str(error).split()).removeprefix(f"{path}: ")
        _hopeless(path, what, error)
    end = int.from_bytes(head[28:36], "little")
    if not usual and size < end and identity.get("format") != FORMAT:
        file.close()
        _hopeless(path, f"only {size} of {end} bytes are there, not even the file's header")
    if usual:
        notes.mended.append("the superblock")
    try:
        _check_links(file, path)
        store = DamagedHdf5(file, path, identity)
        store.expect(FIRST)
    except BaseException:
        file.close()
        raise
    return store


def _hopeless(path: Path, what: str, cause: Exception | None = None) -> NoReturn:
    raise Damaged(
        f"{path}: {what}; nothing can be saved: restore it from a copy", path=path, rule="CORE-006"
    ) from cause


def _opened(path: Path, *, usual: bool) -> tuple[h5py.File, Attributes]:
    file = h5py.File(ClosedView(path, usual=usual), "r")
    try:
        return file, read_identity(file)
    except BaseException:
        file.close()
        raise


def _check_links(file: h5py.File, path: Path) -> None:
    """As `check_links`, but past what is damaged, which the library does not open either."""
    pending = [file.id]
    seen: set[object] = set()
    while pending and len(seen) < _MOST_OBJECTS:
        group = pending.pop()
        try:
            names = list(h5g.GroupIter(group))
        except LIBRARY_FAILURES:
            continue
        for raw in names:
            try:
                kind = group.links.get_info(raw).type
            except LIBRARY_FAILURES:
                continue
            if kind != h5l.TYPE_HARD:
                raise Unsafe(
                    f"{path} holds a soft or external link, which a safe reader does not follow: "
                    "repair only files from a conforming writer",
                    path=path,
                    rule="H5-002",
                )
            try:
                info = h5g.get_objinfo(group, raw)
                if info.type == h5g.GROUP and info.objno not in seen:
                    pending.append(h5g.open(group, raw))
                seen.add(info.objno)
            except LIBRARY_FAILURES:
                continue
