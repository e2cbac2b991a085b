"""By what a run on the disk is recognised as unchanged, without opening a file.

Of every file its size, its inode and the times of its last writing and of its last change of any
kind. The latter a program cannot set, so a file put back with its old time of writing is noticed
too.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

#: A folder with more entries is not worth looking through.
MOST_ENTRIES = 400_000
#: Clocks of file systems tick more coarsely than they count: a file written twice within a tick
#: looks the same. Measured near 4 ms; whole seconds where all that is stated are seconds.
TICK_NS = 50_000_000
COARSE_TICK_NS = 2_000_000_000


def stamp(path: Path) -> str | None:
    """What the files of a run look like.

    Args:
        path: A file or a folder.

    Returns:
        A text that is another one whenever a file is written, replaced, added or removed. None
        if that cannot be told: it is not there, has too many files or links to other folders, or
        was written a moment ago, so that another write might leave it looking the same.
    """
    digest = blake2b(digest_size=20)
    newest = 0
    coarse = True
    began = time.time_ns()
    try:
        for number, (name, found) in enumerate(_files(path)):
            if number >= MOST_ENTRIES:
                return None
            facts = found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
            digest.update(f"{name}\0{facts}\n".encode("utf-8", "surrogateescape"))
            newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
            coarse &= found.st_mtime_ns % 1_000_000_000 == 0
    except OSError:
        return None
    if newest + (COARSE_TICK_NS if coarse else TICK_NS) > began:
        return None
    return digest.hexdigest()


def _files(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file with what is known of it; through a link, of the file it leads to."""
    top = path.stat()
    yield "", top
    if not stat.S_ISDIR(top.st_mode):
        return
    folders = [str(path)]
    while folders:
        folder = folders.pop()
        with os.scandir(folder) as listed:
            for entry in sorted(listed, key=lambda item: item.name):
                if entry.is_symlink() and entry.is_dir():
                    raise OSError(f"{entry.path} links to a folder")
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                yield entry.path[len(str(path)) :], entry.stat()
