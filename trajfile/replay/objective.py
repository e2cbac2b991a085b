"""The user's loss at one snapshot, as a function of one flat vector: value, gradient, Hv."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.func import grad, jvp, vjp

from trajfile.errors import UsageError
from trajfile.replay.factory import UserLoss, running

Tensors = dict[str, torch.Tensor]


class Objective:
    """A loss of named tensors around one point.

    Vectors are float64 and flat: the selected tensors one after the other, in C order. Where the
    tensors are float32, so are the loss and its derivatives; only what is made of them is float64.

    Attributes:
        size: Number of coordinates.
        value: The loss.
        gradient: Its gradient, float64, shape (size,).
        unused: Selected tensors that the loss does not depend on.
        products: Hessian-vector products taken so far.
    """

    def __init__(self, loss: UserLoss, tensors: Mapping[str, torch.Tensor], selected: list[str]):
        """Evaluate the loss and its gradient.

        Args:
            loss: The user's loss.
            tensors: All tensors by name, on the loss's device.
            selected: Names of those to differentiate by; of float dtype.

        Raises:
            UsageError: If the loss fails, is not a number, or depends on no tensor.
        """
        self._loss = loss
        self._fixed: Tensors = {n: t for n, t in tensors.items() if n not in selected}
        self._point: Tensors = {n: tensors[n].detach() for n in selected}
        self._forward = True
        self.size = sum(t.numel() for t in self._point.values())
        self.products = 0
        self.value, self.gradient, self.unused = self._evaluated()

    def again(self) -> float:
        """The loss, evaluated once more."""
        with torch.no_grad(), self._running("the loss"):
            values = [float(self._number(self._point, batch)) for batch in self._batches()]
        return math.fsum(values) / len(values)

    def product(self, vector: torch.Tensor) -> torch.Tensor:
        """The Hessian times a vector.

        Args:
            vector: float64, shape (size,).

        Returns:
            float64, shape (size,); forward over reverse, or reverse over reverse where an
            operation of the loss has no forward derivative.
        """
        self.products += 1
        direction = self._split(vector)
        total, count = torch.zeros_like(vector), 0
        with self._running("a Hessian-vector product"):
            for batch in self._batches():
                slope = grad(self._of(batch))
                total += self._flat(self._along(slope, direction))
                count += 1
        return total / count

    def _along(self, slope: Callable[[Tensors], Tensors], direction: Tensors) -> Tensors:
        if self._forward:
            try:
                with warnings.catch_warnings():  # PyTorch's first jvp loads a module that warns
                    warnings.filterwarnings("ignore", "`torch.jit", DeprecationWarning)
                    return self._tensors(jvp(slope, (self._point,), (direction,))[1])
            except (RuntimeError, NotImplementedError):
                backward = self._tensors(vjp(slope, self._point)[1](direction)[0])
                self._forward = False  # only once the other way has been seen to work
                return backward
        return self._tensors(vjp(slope, self._point)[1](direction)[0])

    def _evaluated(self) -> tuple[float, torch.Tensor, tuple[str, ...]]:
        leaves = {name: t.clone().requires_grad_() for name, t in self._point.items()}
        gradient = torch.zeros(self.size, dtype=torch.float64, device=self._device)
        used: set[str] = set()
        values = []
        with self._running("the loss"), torch.enable_grad():
            for batch in self._batches():
                value = self._number(leaves, batch)
                values.append(float(value.detach()))
                slopes: list[torch.Tensor | None] = [None] * len(leaves)
                if value.requires_grad:
                    slopes = list(torch.autograd.grad(value, [*leaves.values()], allow_unused=True))
                used |= {n for n, slope in zip(leaves, slopes, strict=True) if slope is not None}
                gradient += self._flat(
                    {
                        name: torch.zeros_like(leaf) if slope is None else slope
                        for (name, leaf), slope in zip(leaves.items(), slopes, strict=True)
                    }
                )
        if not values:
            raise UsageError(f"--replay {self._loss.name}: there are no batches")
        if not used:
            raise UsageError(
                f"--replay {self._loss.name}: the loss depends on none of the recorded tensors "
                f"({_listed(leaves)}); it must compute with those it is given, under their names"
            )
        unused = tuple(name for name in leaves if name not in used)
        return math.fsum(values) / len(values), gradient / len(values), unused

    def _of(self, batch: Any) -> Callable[[Tensors], torch.Tensor]:
        return lambda point: self._number(point, batch)

    def _number(self, point: Tensors, batch: Any) -> torch.Tensor:
        """The loss on a batch as a tensor without axes."""
        given = {**self._fixed, **point}
        with_batch = self._loss.batches is not None
        value = self._loss.function(given, batch) if with_batch else self._loss.function(given)
        if not isinstance(value, torch.Tensor) or value.numel() != 1 or value.is_complex():
            shape = f" of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else ""
            raise UsageError(
                f"--replay {self._loss.name}: the loss returned a {type(value).__name__}{shape}; "
                "expected one real number as a tensor"
            )
        return value.reshape(())

    def _batches(self) -> Iterator[Any]:
        yield from (None,) if self._loss.batches is None else self._loss.batches

    def _running(self, what: str) -> AbstractContextManager[None]:
        given = _listed({**self._point, **self._fixed})
        return running(self._loss.name, what, f"; it was given the tensors {given}")

    @property
    def _device(self) -> torch.device:
        return next(iter(self._point.values())).device

    def _split(self, vector: torch.Tensor) -> Tensors:
        parts, start = {}, 0
        for name, tensor in self._point.items():
            part = vector[start : start + tensor.numel()]
            parts[name] = part.to(tensor.dtype).reshape(tensor.shape)
            start += tensor.numel()
        return parts

    def _flat(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([tensors[name].detach().double().reshape(-1) for name in self._point])

    @staticmethod
    def _tensors(value: Any) -> Tensors:
        """What torch.func returns for a dict, whose type it does not state."""
        made: Tensors = value
        return made


def _listed(names: Mapping[str, object]) -> str:
    first = list(names)[:4]
    return ", ".join(first) + (", …" if len(names) > len(first) else "")
