"""A trajectory on its way to its place: a folder beside it, and a note of how far it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from trajfile.containers import Compression, open_container
from trajfile.containers.bulk import bulk_store
from trajfile.containers.identity import Attributes
from trajfile.containers.journal import Journal
from trajfile.containers.pieces import PIECE_BYTES
from trajfile.containers.store import ArrayStore
from trajfile.containers.writer_lock import WriterLock
from trajfile.errors import ResourceError, UsageError
from trajfile.schema import Manifest
from trajfile.version import __version__

NOTE = "conversion.json"


class Unfinished:
    """The folder ``OUT.partial`` with the growing copy and its note; a context manager.

    Args:
        target: OUT.
        facts: What tells this conversion from any other, as JSON.

    Attributes:
        folder: The folder.
        path: The copy in it.
        copied: How many blocks an interrupted run of the same conversion has copied; None if there
            was none.

    Raises:
        UsageError: If something else stands there.
        ResourceError: If another process is at it, or it cannot be written.
    """

    def __init__(self, target: Path, facts: dict[str, Any]):
        self.target = target
        self.folder = target.with_name(f"{target.name}.partial")
        self.path = self.folder / target.name
        self.copied: int | None = None
        self._facts = known_facts(facts)
        self._lock: WriterLock | None = None
        self._noted = 0

    def __enter__(self) -> Self:
        """Take the folder, and whatever is in it of the same conversion."""
        note = self.folder / NOTE
        if self.folder.exists() and not note.is_file() and any(self.folder.iterdir()):
            raise UsageError(
                f"{self.folder} is where the unfinished copy would lie, and holds something else: "
                "remove or rename it"
            )
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"{self.folder} cannot be made ({error.strerror}): check the permissions of the "
                "folder and the room on the disk"
            ) from error
        self._lock = WriterLock(self.folder)
        self.copied = self._found(note)
        if self.copied is None:
            self.restart()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let go of it; what is unfinished stays, unless there is not a block of it."""
        if error is not None and not self._noted and self.folder.exists():
            self.discard()
        if self._lock is not None:
            self._lock.close()

    def store(
        self, manifest: Manifest, identity: Attributes, compression: Compression, *, again: bool
    ) -> ArrayStore:
        """The arrays of the copy; see `trajfile.containers.bulk.bulk_store`."""
        return bulk_store(self.path, manifest, identity, compression, again=again)

    def open(self, identity: Attributes) -> Journal:
        """The copy, to be read back; `identity` is in it."""
        del identity
        return open_container(self.path)

    def restart(self) -> None:
        """Forget whatever is there."""
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.copied = None
        self.note(0)

    def note(self, copied: int) -> None:
        """Write down how many blocks have been handed to the system."""
        self._noted = copied
        aside = self.folder / f"{NOTE}.tmp"
        aside.write_bytes(note_of(self._facts, copied))
        aside.replace(self.folder / NOTE)

    def finish(self, identity: Attributes) -> None:
        """Move the copy to its place, replacing what is there, and remove the folder."""
        del identity
        if self.target.is_dir() and not self.target.is_symlink():
            self.target.rename(self.folder / "replaced")
        Path(self.path).replace(self.target)
        shutil.rmtree(self.folder)

    def discard(self) -> None:
        """Remove the copy and the folder."""
        shutil.rmtree(self.folder)

    def _found(self, note: Path) -> int | None:
        """How far the same conversion had come."""
        try:
            copied = copied_of(self._facts, note.read_bytes())
        except OSError:
            return None
        self._noted = copied or 0
        return copied if self.path.exists() else None


def known_facts(facts: dict[str, Any]) -> Any:
    """What tells a conversion from any other, as it comes back from a note."""
    # Blocks are counted, so all that decides how a copy is cut is part of what it is.
    known = {**facts, "blocks": PIECE_BYTES, "program": __version__}
    return msgspec.json.decode(msgspec.json.encode(known))


def note_of(facts: Any, copied: int) -> bytes:
    """The note that so many blocks were copied."""
    return msgspec.json.encode({"of": facts, "copied": copied})


def copied_of(facts: Any, note: bytes) -> int | None:
    """How many blocks a note says were copied; None if it is of another conversion."""
    try:
        found = msgspec.json.decode(note)
        return int(found["copied"]) if found["of"] == facts else None
    except (ValueError, KeyError, TypeError, msgspec.DecodeError):
        return None
