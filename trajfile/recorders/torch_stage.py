"""What was done to the gradients between the backward pass and the optimizer.

PyTorch counts a tensor's changes in place. The count when the backward pass has accumulated a
gradient, and again when the optimizer takes it, tell whether something, such as clipping, has
changed it in between, without getting in its way.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class StageProbe:
    """Watches a few parameters' gradients."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        every = [p for p in parameters if p.requires_grad]
        watched = {id(p): p for p in (every[:1] + every[len(every) // 2 :][:1] + every[-1:])}
        self._watched = watched
        self._seen: dict[int, tuple[int, int]] = {}
        self._handles = [
            p.register_post_accumulate_grad_hook(self._accumulated)  # type: ignore[no-untyped-call]
            for p in watched.values()
        ]

    def _accumulated(self, parameter: torch.Tensor) -> None:
        grad = parameter.grad
        if grad is not None and not grad.is_sparse:
            self._seen[id(parameter)] = (id(grad), grad._version)

    def changed(self) -> bool:
        """Whether a gradient has been changed in place, or replaced, since it was accumulated.

        Returns:
            Whether it has. A GradScaler's unscaling does not count: PyTorch does not take it for
            a change.
        """
        for key, parameter in self._watched.items():
            grad, seen = parameter.grad, self._seen.get(key)
            if grad is None or seen is None or grad.is_sparse:
                continue
            if (id(grad), grad._version) != seen:
                return True
        return False

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()


class Scaling:
    """What a GradScaler does to the gradients, and which updates it leaves out."""

    def __init__(self, optimizer: torch.optim.Optimizer, scaler: Any):
        self._optimizer = optimizer
        self._scaler = scaler
        self._before: dict[str, Any] | None = None
        self.skipped = 0

    @property
    def known(self) -> bool:
        """Whether there is a scaler at work that the recorder knows of."""
        return self.fused or (self._scaler is not None and self._scaler.is_enabled())

    @property
    def fused(self) -> bool:
        """Whether the optimizer itself takes the scale out and skips updates."""
        return getattr(self._optimizer, "found_inf", None) is not None

    @property
    def attempt(self) -> int:
        """Changes whenever the scaler has been updated, which it is after each attempt."""
        scale = getattr(self._scaler, "_scale", None)
        return scale._version if isinstance(scale, torch.Tensor) else 0

    def overflows(self) -> bool:
        """Whether the coming call of a fused optimizer will move nothing; counts it if so."""
        found = getattr(self._optimizer, "found_inf", None)
        if found is None or not float(found):
            return False
        self.skipped += 1
        return True

    def inverse(self) -> torch.Tensor | None:
        """What the gradients have to be multiplied by, as the scaler itself would; None for 1."""
        scale = getattr(self._optimizer, "grad_scale", None)
        if scale is None:
            return None
        return torch.as_tensor(scale).double().reciprocal().float()

    def count(self) -> float | None:
        """Count the updates skipped since the last one that was made.

        Returns:
            The scale in force; None without a scaler.
        """
        if not self.known:
            return None
        if self._scaler is None:
            scale = getattr(self._optimizer, "grad_scale", None)
            return None if scale is None else float(scale)
        now = self._scaler.state_dict()
        if self._before and not self.fused:
            # Each skipped update multiplies the scale by the backoff factor; the one that was
            # made before may have multiplied it by the growth factor.
            scale = self._before["scale"]
            if self._before["_growth_tracker"] + 1 == self._before["growth_interval"]:
                scale *= self._before["growth_factor"]
            while scale > now["scale"] * 1.000001 and 0 < now["backoff_factor"] < 1:
                scale *= now["backoff_factor"]
                self.skipped += 1
        self._before = now
        return float(now["scale"])
