"""Reading plain chunks of an HDF5 file row by row: a chunk to the cache, and from there to its row.

A call of the library for each, or a few of Python, take longer than a chunk of some KiB; and a
chunk that is summed up, and copied to where it is wanted, while the processor still holds it passes
through memory once.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from trajfile.containers import checksum
from trajfile.containers.base import Array
from trajfile.containers.packing import PackingError
from trajfile.containers.scratch import scratch


def possible() -> bool:
    """Whether `gather` can be called; loads it if checksums are compiled."""
    return checksum.compiled() and _kernels() is not None


def check_sizes(sizes: NDArray[np.int64], size: int) -> None:
    """Refuse chunks of other sizes.

    Args:
        sizes: Bytes of each as it is stored.
        size: Bytes that each is to have, without its checksum.

    Raises:
        PackingError: If one has others.
    """
    wrong = sizes != size + 4
    if wrong.any():
        found = int(sizes[np.argmax(wrong)])
        raise PackingError(f"a chunk has {found} bytes where {size + 4} are due")


def gather(descriptor: int, places: NDArray[np.int64], size: int, part: slice, out: Array) -> None:
    """Read chunks, verify them, and copy a part of each to a row of its own.

    Args:
        descriptor: The file.
        places: Address of each chunk, int64, shape (chunks,), contiguous.
        size: Bytes of each without its checksum, even.
        part: Which bytes of each are wanted.
        out: Where they go, shape (chunks, columns), rows contiguous.

    Raises:
        PackingError: If the file is too short, or a chunk fails its checksum.
        OSError: If the system cannot read.
    """
    words = scratch("chunk", size + 4).view(np.uint16)
    count, stride = part.stop - part.start, out.strides[0]
    # All the memory that the rows lie in, so that the loop deals with one plain array.
    into = as_strided(out.view(np.uint8), ((len(out) - 1) * stride + count,), (1,))
    done, tried = 0, -1
    while done < len(places):
        rest = places[done:], size, part.start, count, words, into[done * stride :], stride
        failed = int(_kernels().gather(descriptor, *rest))
        if failed < 0:
            return
        if failed % 2:
            raise PackingError("a chunk fails its checksum")
        done += failed // 2
        if done == tried:
            raise PackingError("a chunk cannot be read whole")
        tried = done
        # Here it is asked again if a signal came in between, and what the system says is raised.
        if os.preadv(descriptor, [words.data], int(places[done])) != size + 4:
            raise PackingError("the file ends within a chunk")


@cache
def _kernels() -> Any:
    if sys.maxsize < 2**32 or not hasattr(os, "preadv"):
        return None
    try:
        if not hasattr(ctypes.CDLL(None), "pread"):  # to call what is not there ends the process
            return None
        from trajfile.containers import kernels_rows
    except (ImportError, OSError):
        return None
    return kernels_rows
