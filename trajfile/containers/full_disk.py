"""Telling a full disk from other failures of writing."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trajfile.errors import ResourceError

#: Numbers of the system's errors that mean there is no room.
FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
# HDF5 tells the system's error only in the text of its own.
_HDF5_ERRNO = re.compile(r"errno = (\d+)")


@contextmanager
def full_disk_as_resource_error(path: Path) -> Iterator[None]:
    """Turn every failure of the system to write into a `ResourceError`.

    Args:
        path: What is being written.

    Yields:
        Nothing.

    Raises:
        ResourceError: If the system refused to write.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        text = str(error)
        match = _HDF5_ERRNO.search(text)
        number = int(match.group(1)) if match else getattr(error, "errno", None)
        if number in FULL:
            what = "the disk is full, or a limit on file size or quota is reached"
            remedy = "make room and append to it again"
        else:
            what = f"the system refused to write ({text.splitlines()[0] if text else error!r})"
            remedy = "check permissions and the device, then append to it again"
        raise ResourceError(
            f"{path}: {what}; every step committed before stays readable: {remedy}"
        ) from error
