"""What a plan must know of each kind of device, told without importing PyTorch."""

from __future__ import annotations

import os
import re

from trajfile.engine.shape import Profile
from trajfile.errors import UsageError

#: Float64 rows of a worker that stay in its share of the cache while they are multiplied.
_CACHE_BYTES = 12 * 2**20
#: On a device every kernel should have enough to do: what its launch takes of the host is the same
#: for any number of columns.
_DEVICE_BYTES = 2**30
#: One product of matrices of so many rows is soon done, and is one kernel for many.
_DEVICE_BAND_BLOCK = 128
#: More threads than this wait for the one that reads.
_MOST_WORKERS = 8


#: Products of fewer elements take about a second in float64. Of more, they would take much
#: longer than the reading, and float32 keeps all the digits that float32 rows hold.
_SINGLE_ABOVE = 2**26


def cpu_profile(cores: int) -> Profile:
    """The processor, with a worker for each core."""
    return Profile("cpu", min(max(cores, 1), _MOST_WORKERS), 2, _CACHE_BYTES, _SINGLE_ABOVE)


def cuda_profile(index: int) -> Profile:
    """A CUDA device: two tiles in pinned memory and two on the device."""
    return Profile(
        f"cuda:{index}",
        1,
        4,
        _DEVICE_BYTES,
        lanes=1,
        batched=True,
        band_block=_DEVICE_BAND_BLOCK,
    )


def profile_for(device: str) -> Profile:
    """The profile of a device by name, without looking whether it is there.

    Args:
        device: ``auto`` (planned as the processor), ``cpu``, ``cuda`` or ``cuda:<i>``.

    Returns:
        Its profile.

    Raises:
        UsageError: If it is none of these.
    """
    text = str(device)  # PyTorch has objects for them, which read alike
    found = re.fullmatch(r"auto|cpu|cuda(?::(\d+))?", text)
    if found is None:
        raise UsageError(f"device {device!r} is not one of auto, cpu, cuda or cuda:<number>.")
    if text.startswith("cuda"):
        return cuda_profile(int(found[1] or 0))
    return cpu_profile(available_cores())


def available_cores() -> int:
    """The cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
