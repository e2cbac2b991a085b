"""Room on disk for tensors that stand in no file as they are: those that foreign code builds."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory


class Scratch:
    """A folder that is there from its first file on, until it is closed or the program ends.

    It lies where Python puts temporary files, which ``TMPDIR`` decides.
    """

    def __init__(self) -> None:
        self._folder: TemporaryDirectory[str] | None = None
        self._count = 0

    def new(self) -> Path:
        """A path at which nothing is yet."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="trajfile-trust-")
        self._count += 1
        return Path(self._folder.name) / f"{self._count}.bin"

    def close(self) -> None:
        """Remove the folder."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
