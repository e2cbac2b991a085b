"""What the rows of a Keras training are made of: its variables, before and after a batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from trajfile.containers.base import Array
from trajfile.recorders.keras_optimizer import KEPT
from trajfile.recorders.keras_package import keras
from trajfile.recorders.schedule import OPTIMIZER, SCALARS, Schedule
from trajfile.recorders.session import Row
from trajfile.schema import GRADIENTS, OPTIMIZER_PREFIX, PARAMS, UPDATES

_SLOTS = {"momentum": "exp_avg", "velocity": "exp_avg_sq"}
_ADAMS = {"Adam", "AdamW", "Nadam"}


class Rows:
    """Copies variables of a model and its optimizer, those that a schedule chooses.

    Args:
        schedule: Chooses tensors.
    """

    def __init__(self, schedule: Schedule):
        self._schedule = schedule
        self._before: dict[str, Any] = {}
        self._rate_before = 0.0

    def before(self, model: Any, optimizer: Any, due: frozenset[str]) -> Row:
        """Begin a row with what there is before the batch.

        Args:
            model: The model; with JAX, its variables are up to date.
            optimizer: Its optimizer.
            due: What is recorded at this step.

        Returns:
            The row.
        """
        row = Row()
        if PARAMS in due:
            row.streams[PARAMS] = self._arrays(PARAMS, model.trainable_variables)
        if UPDATES in due:
            self._before = dict(self._arrays(UPDATES, model.trainable_variables))
            self._rate_before = float(optimizer.learning_rate)
        if SCALARS in due:
            row.scalars["learning_rate"] = float(optimizer.learning_rate)
        if OPTIMIZER in due and optimizer.built:
            row.slots = dict(self._slots(model, optimizer))
        return row

    def after(self, row: Row, model: Any, optimizer: Any, due: frozenset[str]) -> None:
        """Complete a row with what there is after the batch.

        Args:
            row: As `before` made it.
            model: As there.
            optimizer: One that keeps its gradients.
            due: As there.
        """
        variables = model.trainable_variables
        if GRADIENTS in due:
            row.streams[GRADIENTS] = self._arrays(GRADIENTS, variables, optimizer.kept_gradients)
        if UPDATES in due:
            # At learning rate 0 nothing moves, whatever U_k.
            rate = np.float32(self._rate_before or 1.0)
            after: dict[str, Any] = self._arrays(UPDATES, variables)
            row.streams[UPDATES] = {
                name: np.asarray((before - after[name]) / rate, before.dtype)
                for name, before in self._before.items()
            }
            self._before = {}

    def like(self, model: Any, optimizer: Any) -> dict[str, Any]:
        """Arrays of the shapes and dtypes of every stream."""
        params = self._arrays(PARAMS, model.trainable_variables)
        like: dict[str, Any] = dict.fromkeys((PARAMS, GRADIENTS, UPDATES), params)
        slots = self._slots(model, optimizer)
        return like | {OPTIMIZER_PREFIX + slot: held for slot, held in slots.items()}

    def _arrays(self, stream: str, named: Any, values: Any = None) -> dict[str, Array]:
        """Copies, by the paths of the variables."""
        return {
            variable.path: np.array(keras.ops.convert_to_numpy(value))
            for variable, value in zip(named, named if values is None else values, strict=True)
            if self._schedule.chooses(stream, variable.path)
        }

    def _slots(self, model: Any, optimizer: Any) -> dict[str, dict[str, Array]]:
        """The optimizer's variables that belong to a parameter, by slot."""
        slots: dict[str, dict[str, Array]] = {}
        adam = type(optimizer).__name__ in _ADAMS
        for parameter in model.trainable_variables:
            prefix = parameter.path.replace("/", "_") + "_"
            for variable in optimizer.variables:
                slot = variable.name.removeprefix(prefix)
                if slot == variable.name or slot == KEPT or variable.shape != parameter.shape:
                    continue
                slot = _SLOTS.get(slot, slot) if adam else slot
                if self._schedule.chooses(OPTIMIZER, parameter.path):
                    held = np.array(keras.ops.convert_to_numpy(variable))
                    slots.setdefault(slot, {})[parameter.path] = held
        return slots
