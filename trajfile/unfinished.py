"""A trajectory on its way to its place: a folder beside it, and a note of how far it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from trajfile.containers.pieces import PIECE_BYTES
from trajfile.containers.writer_lock import WriterLock
from trajfile.errors import ResourceError, UsageError
from trajfile.version import __version__

_NOTE = "conversion.json"


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
        # Blocks are counted, so all that decides how a copy is cut is part of what it is.
        known = {**facts, "blocks": PIECE_BYTES, "program": __version__}
        self._facts = msgspec.json.decode(msgspec.json.encode(known))
        self._lock: WriterLock | None = None
        self._noted = 0

    def __enter__(self) -> Self:
        """Take the folder, and whatever is in it of the same conversion."""
        note = self.folder / _NOTE
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
        text = msgspec.json.encode({"of": self._facts, "copied": copied})
        aside = self.folder / f"{_NOTE}.tmp"
        aside.write_bytes(text)
        aside.replace(self.folder / _NOTE)

    def finish(self) -> None:
        """Move the copy to its place, replacing what is there, and remove the folder."""
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
            found = msgspec.json.decode(note.read_bytes())
            same = found["of"] == self._facts
            self._noted = int(found["copied"])
            return self._noted if same and self.path.exists() else None
        except (OSError, ValueError, KeyError, TypeError, msgspec.DecodeError):
            return None
