"""The losses and other numbers that a PyTorch loop tells of the coming step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from trajfile.recorders.torch_scaling import Scaling


class Told:
    """Numbers by name, kept on their device until they are asked for.

    Args:
        scaling: Tells which of them are of an update that was skipped.
    """

    def __init__(self, scaling: Scaling):
        self._scaling = scaling
        self._values: dict[str, list[tuple[int, Any]]] = {}
        self._sums: frozenset[str] = frozenset()

    def tell(self, scalars: Mapping[str, Any], *, add: bool = False) -> None:
        """Keep some more numbers.

        Args:
            scalars: Numbers or tensors without axes.
            add: Whether those of several micro-batches add up, instead of being averaged.
        """
        self._sums = self._sums | scalars.keys() if add else self._sums - scalars.keys()
        for name, value in scalars.items():
            if isinstance(value, torch.Tensor):
                value = value.detach().clone()
            self._values.setdefault(name, []).append((self._scaling.attempt, value))

    def mean(self, name: str) -> float | None:
        """Of what was told of the coming update, and not of one that was skipped before it."""
        attempt = self._scaling.attempt
        numbers = [float(value) for when, value in self._values[name] if when == attempt]
        if not numbers:
            return None
        total = sum(numbers)
        return total if len(numbers) == 1 or name in self._sums else total / len(numbers)

    def clear(self) -> None:
        """Forget them, for the next step."""
        self._values.clear()

    def __contains__(self, name: str) -> bool:
        """Whether something of that name was told."""
        return name in self._values

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self._values)
