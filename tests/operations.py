"""Counting the operations that PyTorch is asked for, on a device that needs no card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from trajfile.engine.device import DeviceMachine
from trajfile.engine.shape import Profile

#: Operations that touch no number: they say where a tensor begins and how it is strided.
VIEWS = frozenset(
    {
        "alias",
        "as_strided",
        "detach",
        "diagonal",
        "expand",
        "select",
        "slice",
        "squeeze",
        "t",
        "transpose",
        "unsqueeze",
        "view",
        "_unsafe_view",
        "unflatten",
        "unfold",
    }
)


class _Counting(TorchDispatchMode):
    """Notes the name of every operation."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self._counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


class CountingMachine(DeviceMachine):
    """A device made of the processor's memory, which counts what is asked of it in a pass.

    Attributes:
        counts: Operations by name.
        tiles: Tiles that were multiplied.
    """

    def __init__(self, profile: Profile) -> None:
        super().__init__(profile, "cpu")
        self.label = profile.device
        self.counts: Counter[str] = Counter()
        self.tiles = 0

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Count within."""
        with _Counting(self.counts):
            yield

    def issued(self, slot: Any) -> None:
        """A tile is done."""
        self.tiles += 1

    @property
    def kernels(self) -> int:
        """Operations that read or write numbers: on a card each is a kernel at least."""
        return sum(count for name, count in self.counts.items() if name not in VIEWS)

    @property
    def issued_operations(self) -> int:
        """All operations, views among them."""
        return self.counts.total()
