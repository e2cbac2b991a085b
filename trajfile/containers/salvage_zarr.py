"""A damaged Zarr folder: arrays whose document is lost are taken for what `create` makes."""

from __future__ import annotations

from pathlib import Path

from trajfile.containers.identity import check_identity, new_identity
from trajfile.containers.proof import Notes
from trajfile.containers.salvage_store import (
    FIRST,
    Lane,
    created_as,
    lanes_of,
    readable,
    tables_of,
)
from trajfile.containers.store import COMMITS, MANIFEST, ArraySpec
from trajfile.containers.zarr import read_identity
from trajfile.containers.zarr_documents import DOCUMENT
from trajfile.containers.zarr_folder_store import FolderStore
from trajfile.dtypes import bits_dtype
from trajfile.errors import Damaged, FormatError, NotATrajectory, UnsupportedVersion
from trajfile.schema import Manifest

_COMMITS_A_CHUNK = 128


class DamagedZarr(FolderStore):
    """The arrays of a damaged folder.

    Args:
        path: The folder.
        notes: Where what was found is noted.
    """

    def __init__(self, path: Path, notes: Notes):
        self.anonymous: FormatError | None = None
        identity = new_identity()
        try:
            found = read_identity(path)
            check_identity(found, path)
            identity = {**identity, **found}
        except (NotATrajectory, UnsupportedVersion, Damaged) as error:
            if not (path / MANIFEST).is_dir() or not (path / COMMITS).is_dir():
                raise
            self.anonymous = error
        super().__init__(path, identity, writable=False, power=False)
        self._notes = notes

    def settle(self, first: Manifest, newest: Manifest) -> dict[Lane, FormatError]:
        """Take the arrays for what the manifest says; lanes that cannot be read, and why."""
        lost: dict[Lane, FormatError] = {}
        for spec in tables_of(newest):
            self._settle(created_as(first, spec, archive=self.archive), spec)
        for lane, spec in lanes_of(newest):
            try:
                self.expect([spec])
            except Damaged as error:
                if not self._guess(created_as(first, spec, archive=self.archive), spec):
                    lost[lane] = error
        return lost

    def first_tables(self) -> None:
        """Take the tables of manifest and commits for what they are."""
        for spec in FIRST:
            try:
                self.expect([spec])
            except Damaged:
                measured = self._measured(spec)
                self._assume(measured, measured)

    def _settle(self, created: ArraySpec, spec: ArraySpec) -> None:
        try:
            self.expect([spec])
        except Damaged:
            self._assume(created, spec)

    def _guess(self, created: ArraySpec, spec: ArraySpec) -> bool:
        """Try the compressions of a lane whose document is lost."""
        for compression in (None, "gzip", "zstd"):
            self.assume(created, spec, compression)
            if readable(self, spec.key, bits_dtype(spec.dtype)):
                self._notes.mended.append(f"the {DOCUMENT} of /{spec.key}")
                return True
        return False

    def _assume(self, created: ArraySpec, spec: ArraySpec) -> None:
        self.assume(created, spec, None)
        self._notes.mended.append(f"the {DOCUMENT} of /{spec.key}")

    def _measured(self, spec: ArraySpec) -> ArraySpec:
        """The manifest's or the commits' array, by the size of a chunk."""
        sizes = [file.stat().st_size for file in (self._root / spec.key).glob("c.0*")]
        size = max(sizes, default=0)
        if spec.key == MANIFEST:
            return ArraySpec(MANIFEST, "uint8", None, (max(size, 1),))
        width = max(size // (8 * _COMMITS_A_CHUNK), 1)
        return ArraySpec(COMMITS, "uint64", width, (_COMMITS_A_CHUNK, width))


def open_damaged_zarr(path: Path, notes: Notes) -> DamagedZarr:
    """Open a damaged folder; see `trajfile.containers.salvage_store.open_store`."""
    store = DamagedZarr(path, notes)
    try:
        store.first_tables()
    except BaseException:
        store.close()
        raise
    return store
