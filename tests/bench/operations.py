"""Counting the operations that PyTorch is asked for, on a device that needs no card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from trajfile.engine.device import DeviceMachine, Slot
from trajfile.engine.shape import Profile

#: Operations that touch no number: they say where a tensor begins and how it is strided.
VIEWS = frozenset(
    {
        "alias",
        "as_strided",
        "detach",
        "diagonal",
        "lift_fresh",
        "permute",
        "select",
        "slice",
        "squeeze",
        "t",
        "transpose",
        "unsqueeze",
        "view",
    }
)


class CountingMachine(DeviceMachine):
    """A device that counts what it is asked for while a pass works on tiles.

    Args:
        profile: As a card's.
        device: Where tensors are: ``cpu``, or ``meta`` where no number is looked at.

    Attributes:
        counts: Operations by name.
        tiles: Tiles that were multiplied.
    """

    def __init__(self, profile: Profile, device: str = "cpu") -> None:
        super().__init__(profile, device)
        self.counts: Counter[str] = Counter()
        self.tiles = 0

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Count within."""
        with _Asked(self):
            yield

    def asked(self, operation: Any, arguments: tuple[Any, ...]) -> None:
        """Note an operation.

        Args:
            operation: The operation, as PyTorch names it.
            arguments: Of it.
        """
        self.counts[operation.overloadpacket.__name__] += 1

    def issued(self, slot: Slot) -> None:
        """Note that a tile is done."""
        self.tiles += 1

    @property
    def operations(self) -> float:
        """All operations for a tile."""
        return self.counts.total() / self.tiles

    @property
    def kernels(self) -> float:
        """Operations for a tile that read or write numbers: on a card each is work of its own."""
        return sum(n for name, n in self.counts.items() if name not in VIEWS) / self.tiles


class _Asked(TorchDispatchMode):
    """Tells a machine of every operation."""

    def __init__(self, machine: CountingMachine) -> None:
        super().__init__()
        self._machine = machine

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        self._machine.asked(func, (*args, *named.values()))
        return func(*args, **named)
