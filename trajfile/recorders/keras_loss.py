"""The loss of one batch, of which Keras shows only a running mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from trajfile.recorders.keras_package import keras


class BatchLoss:
    """Takes the loss of a batch out of the running mean, and leaves that as it would have been."""

    def __init__(self) -> None:
        self._losses: tuple[Any, float, float] | None = None

    @property
    def is_apart(self) -> bool:
        """Whether there is one to be taken."""
        return self._losses is not None

    def set_apart(self, metrics: Iterable[Any]) -> None:
        """Empty Keras' running mean of the loss, so that after the batch it holds that batch's.

        `take` adds back what it held, with the additions that Keras would have made.

        Args:
            metrics: Those of the model, before the batch.
        """
        tracker = next((m for m in metrics if m.name == "loss"), None)
        if tracker is None or not hasattr(tracker, "total") or not hasattr(tracker, "count"):
            return
        self._losses = (tracker, _number(tracker.total), _number(tracker.count))
        tracker.total.assign(0.0)
        tracker.count.assign(0.0)

    def take(self, logs: Any) -> float | None:
        """The loss of the batch, after it; with JAX, once the variables are up to date.

        Args:
            logs: What Keras tells of the batch; its loss is put right.

        Returns:
            None if it was not set apart.
        """
        if self._losses is None:
            return None
        tracker, total, count = self._losses
        self._losses = None
        loss = _number(tracker.result())
        tracker.total.assign_add(total)
        tracker.count.assign_add(count)
        if isinstance(logs, dict) and "loss" in logs:
            logs["loss"] = _number(tracker.result())
        return loss


def _number(value: Any) -> float:
    return float(keras.ops.convert_to_numpy(value))
