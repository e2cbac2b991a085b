"""By what the content of an input is recognised, without opening it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path

from trajfile.errors import TrajfileError

#: Of a folder with more entries only so many are looked at to tell whether it changed.
_MOST_ENTRIES = 100_000


def identity_of(path: str) -> str:
    """What identifies the content of an input, found without opening it.

    Of a file its size and time of change; of a folder those of all that lies in it and one level
    below, where every commit of a trajectory leaves its mark.

    Args:
        path: The input.

    Returns:
        A text that changes with the content; ``missing`` if there is nothing.
    """
    if path.startswith("s3://"):
        return _identity_in_store(path)
    top = Path(path)
    try:
        found = top.stat()
        if not top.is_dir():
            return f"{found.st_size}-{found.st_mtime_ns}"
        digest = blake2b(digest_size=16)
        for entry in islice(_entries(path, depth=2), _MOST_ENTRIES):
            stat = entry.stat(follow_symlinks=False)
            digest.update(f"{entry.path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()
    except OSError:
        return "missing"


def _identity_in_store(url: str) -> str:
    from trajfile.containers.bucket import Bucket

    digest = blake2b(digest_size=16)
    found = 0
    try:
        bucket = Bucket(url)
        for entry in islice(bucket.below(bucket.prefix), _MOST_ENTRIES):
            found += 1
            digest.update(f"{entry['path']}\0{entry['size']}\0{entry['e_tag']}\n".encode())
        if bucket.prefix.suffix == ".safetensors":
            return str(bucket.size(bucket.prefix))
    except (TrajfileError, OSError):
        return "missing"
    return digest.hexdigest() if found else "missing"


def _entries(folder: str, depth: int) -> Iterator[os.DirEntry[str]]:
    for entry in sorted(os.scandir(folder), key=lambda item: item.name):
        yield entry
        if depth > 1 and entry.is_dir(follow_symlinks=False):
            yield from _entries(entry.path, depth - 1)
