"""Where a pass multiplies: the processor's cores, or a CUDA device. PyTorch on either.

On CUDA a tile is read into pinned memory and copied on a stream of its own, while the tile before
it is multiplied; events order the two and nothing waits for a single tile. On the processor the
staged tile is multiplied where it lies, by one thread for each core.
"""

from __future__ import annotations

import math
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from trajfile.engine.arena import Arena
from trajfile.engine.profiles import available_cores, cpu_profile, cuda_profile
from trajfile.engine.shape import Profile
from trajfile.errors import ResourceError

#: Compute capabilities with float64 units at half the rate of float32, the data-centre cards.
#: Others run float64 at 1/32 or 1/64 of it.
_FULL_FLOAT64 = frozenset({(6, 0), (7, 0), (8, 0), (9, 0), (10, 0), (10, 3)})


#: Sums: NumPy arrays on the processor, tensors on a device. Both are indexed and added to alike.
Sum: TypeAlias = Any


@dataclass(eq=False)
class Slot:
    """One staged tile.

    Attributes:
        host: Bytes in host memory, uint8; pinned for CUDA.
        device: The same on the device; on the processor the same memory.
        copied: Recorded when the copy to the device has been issued; None on the processor.
        multiplied: Recorded when the products of the tile have been issued; likewise.
    """

    host: torch.Tensor
    device: torch.Tensor
    copied: torch.cuda.Event | None = None
    multiplied: torch.cuda.Event | None = None
    _typed: dict[torch.dtype, torch.Tensor] = field(default_factory=dict)

    def numbers(self, dtype: torch.dtype) -> torch.Tensor:
        """The bytes on the device as numbers of a dtype, as many as there are."""
        if dtype not in self._typed:
            whole = len(self.device) // dtype.itemsize * dtype.itemsize
            self._typed[dtype] = self.device[:whole].view(dtype)
        return self._typed[dtype]


class Machine:
    """The processor, and the interface of every device.

    Attributes:
        profile: What the plan knows of it.
        device: PyTorch's name of it.
        label: For the report.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.device = torch.device("cpu")
        self.label = "cpu"

    def slot(self, size: int) -> Slot:
        """A buffer for staged tiles of up to `size` bytes."""
        host = Arena(size).take(size)
        return Slot(host, host)

    def arena(self, size: int) -> Arena | None:
        """Memory for compiled kernels; None where they do not run."""
        return Arena(size)

    def upload(self, slot: Slot, size: int) -> None:
        """Make the first `size` staged bytes available on the device."""

    def issued(self, slot: Slot) -> None:
        """Note that all work on the slot has been issued."""

    def wait_reusable(self, slot: Slot) -> None:
        """Wait until the slot's host memory may be overwritten."""

    def scope(self) -> AbstractContextManager[object]:
        """The context in which the device's work is issued."""
        return nullcontext()

    def zeros(self, shape: tuple[int, ...]) -> Sum:
        """A sum of nothing yet, float64."""
        return np.zeros(shape)

    def index(self, values: NDArray[np.int64]) -> torch.Tensor:
        """Indices on the device."""
        return torch.from_numpy(values).to(self.device)

    def row_dots(self, a: torch.Tensor, b: torch.Tensor) -> Sum:
        """Inner products of corresponding rows.

        Args:
            a: Shape (rows, columns), in the plan's precision.
            b: The same.

        Returns:
            Shape (rows,), float64.
        """
        # NumPy's is one fused pass per row; PyTorch's writes the products out before summing.
        return np.vecdot(a.numpy(), b.numpy())

    def window_dots(self, a: torch.Tensor, windows: torch.Tensor) -> Sum:
        """Inner products of each row with each row of its window.

        Args:
            a: Shape (rows, columns), in the plan's precision.
            windows: Shape (rows, lags, columns); windows may overlap in memory.

        Returns:
            Shape (rows, lags), float64.
        """
        return np.vecdot(a.numpy()[:, None, :], windows.numpy())


class DeviceMachine(Machine):
    """Multiplies on a device of PyTorch, with memory of its own: all but the order of copies.

    Tiles are copied there, and sums stay there until the pass is over. On the device ``cpu`` it
    does what it does on a card, operation by operation.

    Args:
        profile: What the plan knows of the device.
        device: Its name, as PyTorch has it.
    """

    def __init__(self, profile: Profile, device: str) -> None:
        super().__init__(profile)
        self.device = torch.device(device)
        self.label = device

    def arena(self, size: int) -> Arena | None:
        """None: kernels are PyTorch's."""
        return None

    def slot(self, size: int) -> Slot:
        """A buffer in host memory and its counterpart on the device."""
        host = torch.empty(size, dtype=torch.uint8)
        return Slot(host, torch.empty(size, dtype=torch.uint8, device=self.device))

    def upload(self, slot: Slot, size: int) -> None:
        """Copy the staged bytes."""
        slot.device[:size].copy_(slot.host[:size])

    def zeros(self, shape: tuple[int, ...]) -> Sum:
        """A sum of nothing yet, float64, on the device."""
        return torch.zeros(shape, dtype=torch.float64, device=self.device)

    def row_dots(self, a: torch.Tensor, b: torch.Tensor) -> Sum:
        """As on the processor, without leaving the device."""
        return torch.linalg.vecdot(a, b).to(torch.float64)

    def window_dots(self, a: torch.Tensor, windows: torch.Tensor) -> Sum:
        """As on the processor, without leaving the device."""
        return torch.bmm(a.unsqueeze(1), windows.transpose(1, 2)).squeeze(1).to(torch.float64)


class CudaMachine(DeviceMachine):
    """One CUDA device: tiles are copied from pinned memory while others are multiplied."""

    def __init__(self, profile: Profile) -> None:
        full = torch.cuda.get_device_capability(torch.device(profile.device)) in _FULL_FLOAT64
        profile = replace(profile, single_above=math.inf if full else 0)
        super().__init__(profile, profile.device)
        self.label = f"{profile.device} ({torch.cuda.get_device_name(self.device)})"
        self._copies = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]  # untyped there

    def slot(self, size: int) -> Slot:
        """A pinned buffer, its counterpart on the device, and the events that order their use."""
        host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        device = torch.empty(size, dtype=torch.uint8, device=self.device)
        copied, multiplied = torch.cuda.Event(), torch.cuda.Event()  # type: ignore[no-untyped-call]  # untyped there
        return Slot(host, device, copied, multiplied)

    def upload(self, slot: Slot, size: int) -> None:
        """Copy on the copy stream, once the products of the tile before have been formed."""
        assert slot.copied is not None
        assert slot.multiplied is not None
        self._copies.wait_event(slot.multiplied)
        with torch.cuda.stream(self._copies):
            slot.device[:size].copy_(slot.host[:size], non_blocking=True)
            slot.copied.record(self._copies)
        torch.cuda.current_stream(self.device).wait_event(slot.copied)

    def issued(self, slot: Slot) -> None:
        """Record the event that frees the slot's device memory."""
        assert slot.multiplied is not None
        slot.multiplied.record(torch.cuda.current_stream(self.device))

    def wait_reusable(self, slot: Slot) -> None:
        """Wait for the copy alone; the products may still be under way."""
        assert slot.copied is not None
        slot.copied.synchronize()

    def scope(self) -> AbstractContextManager[object]:
        """Make the device current."""
        return torch.cuda.device(self.device)

    def index(self, values: NDArray[np.int64]) -> torch.Tensor:
        """Indices on the device, by way of pinned memory: nothing waits for what is under way."""
        # PyTorch keeps the pinned memory until the copy is done.
        return torch.from_numpy(values).pin_memory().to(self.device, non_blocking=True)


def machine_for(device: str) -> Machine:
    """The machine called ``auto``, ``cpu``, ``cuda`` or ``cuda:<i>``.

    Args:
        device: The name, checked by `profiles.profile_for`.

    Returns:
        The machine; for ``auto`` the first CUDA device if there is one.

    Raises:
        ResourceError: If the CUDA device is not there.
    """
    wanted = re.fullmatch(r"cuda(?::(\d+))?", device)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted is None and (device == "cpu" or not found):
        return Machine(cpu_profile(available_cores()))
    index = int(wanted[1] or 0) if wanted else 0
    if index >= found:
        raise ResourceError(
            f"device {device!r} is not there: {found} CUDA device(s) found; "
            "use --device cpu or auto."
        )
    return CudaMachine(cuda_profile(index))
