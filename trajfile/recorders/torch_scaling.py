"""What a GradScaler does to the gradients, and which updates it leaves out."""

from __future__ import annotations

from typing import Any

import torch


class Scaling:
    """A GradScaler at work on one optimizer, seen from outside."""

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
