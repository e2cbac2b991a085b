"""The preloaded library that ends or fails a process at its Nth write-like call; see shim.c."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

#: What happens at the armed call.
COUNT, KILL, TEAR, FAIL, SHORT = range(5)

EVER = 2**40
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS, "EACCES": errno.EACCES}


def build(folder: Path) -> Path:
    """Compile the library with the system's compiler."""
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip("needs Linux and a C compiler (cc)")
    library = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run(
        ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"],
        check=True,
    )
    return library


class Shim:
    """The library as loaded into this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.shim_arm.argtypes = [
            ctypes.c_char_p,
            ctypes.c_int,
            ctypes.c_long,
            ctypes.c_long,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
        ]
        self._library.shim_calls.restype = ctypes.c_long

    def arm(
        self,
        folder: str | Path,
        action: int,
        at: int = 1,
        count: int = EVER,
        error: int = 0,
        log: int = -1,
        data: bool = False,
    ) -> None:
        """Act at the ``at``-th call from now on under the folder (and ``count`` - 1 after it)."""
        self._library.shim_arm(os.fsencode(folder), action, at, count, error, log, int(data))

    def disarm(self) -> None:
        """Only pass on from here."""
        self._library.shim_disarm()

    def calls(self) -> int:
        """Calls counted since it was armed."""
        return int(self._library.shim_calls())
