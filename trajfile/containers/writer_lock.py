"""At most one writer a trajectory; the lock goes with the process that holds it."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

from trajfile.containers.folder import PARTIAL
from trajfile.errors import ResourceError

try:
    import fcntl
except ImportError:  # a system without such locks: two writers are then not told apart
    fcntl = None  # type: ignore[assignment] # stands for the missing module

# Far beyond any data. The lock is advisory; HDF5's own, of another kind, do not meet it.
_BYTE = 2**62


class WriterLock:
    """Holds a file or folder until closed.

    Args:
        path: The file or folder.

    Attributes:
        certain: Whether this system can tell that no other writer is there.

    Raises:
        ResourceError: If another writer holds it.
    """

    def __init__(self, path: Path):
        self._descriptor: int | None = None
        self.certain = False
        if fcntl is None:
            return
        folder = path.is_dir()
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            if folder:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self.certain = True
            elif hasattr(fcntl, "F_OFD_SETLK"):
                # Of the open file, not of the process: closing another descriptor keeps it.
                request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _BYTE, 1, 0)
                fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
                self.certain = True
        except OSError as error:
            os.close(descriptor)
            raise ResourceError(
                f"{path} is open in another writer: wait for it, or record into a new trajectory"
            ) from error
        self._descriptor = descriptor

    @staticmethod
    def is_held(path: Path) -> bool | None:
        """Whether a writer holds a file or folder; None if this system cannot tell."""
        if path.is_dir():
            return _folder_is_held(path)
        if not hasattr(fcntl, "F_OFD_GETLK"):
            return None
        descriptor = os.open(path, os.O_RDONLY)
        try:
            request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _BYTE, 1, 0)
            answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, request)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return bool(struct.unpack_from("h", answer)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Let go of it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _folder_is_held(path: Path) -> bool | None:
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def claim_aside(path: Path) -> Path:
    """Where a trajectory is made before it gets its name.

    Args:
        path: Where it will lie.

    Returns:
        A path beside it at which there is nothing. What a killed writer left there is deleted; if
        another writer is at work there, that is a `ResourceError`.
    """
    aside = path.with_name(path.name + PARTIAL)
    if aside.is_symlink():
        aside.unlink()
    elif aside.exists():
        WriterLock(aside).close()
        if aside.is_dir():
            shutil.rmtree(aside)
        else:
            aside.unlink()
    return aside
