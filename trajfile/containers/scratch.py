"""Memory of a thread's own, used again and again: clearing fresh pages costs more than reading."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

_own = threading.local()


def scratch(purpose: str, size: int) -> NDArray[np.uint8]:
    """Memory of the calling thread, with whatever in it.

    Args:
        purpose: What for; the next call for the same purpose gives the same memory again.
        size: Bytes.

    Returns:
        uint8, shape (size,).
    """
    held: dict[str, NDArray[np.uint8]] = _own.__dict__
    if purpose not in held or len(held[purpose]) < size:
        held[purpose] = np.empty(size + size // 16, np.uint8)  # the next may be a little larger
    return held[purpose][:size]
