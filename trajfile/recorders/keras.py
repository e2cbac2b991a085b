"""Record a Keras training: an optimizer that keeps its gradients, and a callback that reads them.

    recorder = Recorder("run.h5", batch_size=32)
    model.compile(optimizer=recorder.optimizer(keras.optimizers.Adam(1e-3)), loss="mse")
    model.fit(inputs, targets, batch_size=32, callbacks=[recorder])

Callbacks never see gradients, so the optimizer keeps each in a variable of its own, raw, before any
clipping: that takes the memory of one more copy of the trainable weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from trajfile.containers import Compression, Durability
from trajfile.containers.base import Array
from trajfile.errors import UsageError
from trajfile.recorders.presets import Preset, schedule_of
from trajfile.recorders.schedule import OPTIMIZER, SCALARS, Schedule
from trajfile.recorders.session import OnError, Row, Session
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS, OPTIMIZER_PREFIX, PARAMS, UPDATES
from trajfile.writer import Mode

try:
    import keras
except ImportError as error:
    raise UsageError(
        "trajfile.recorders.keras needs Keras: pip install 'trajfile[keras]'"
    ) from error

_KEPT = "trajfile_gradient"
_SLOTS = {"momentum": "exp_avg", "velocity": "exp_avg_sq"}
_ADAMS = {"Adam", "AdamW", "Nadam"}


class Recorder(keras.callbacks.Callback):  # type: ignore[misc]  # the package is untyped to mypy
    """Records a `fit`, batch by batch.

    Attributes:
        schedule: What is recorded when.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schedule: Schedule | Preset | str = "standard",
        *,
        steps: int | None = None,
        first_step: int = 0,
        source: Literal["mini_batch", "full_batch"] = "mini_batch",
        batch_size: int | None = None,
        dataset_size: int | None = None,
        groups: Mapping[str, Sequence[str]] | None = None,
        metadata: Mapping[str, Any] | None = None,
        on_error: OnError = "warn",
        mode: Mode = "x",
        compression: Compression = None,
        durability: Durability = "process",
        background: bool = True,
        queue_bytes: int = 256 * 2**20,
    ):
        """Open a recording.

        Args:
            path: Where; see `trajfile.Writer`, as from ``groups`` on.
            schedule: What to record when, or a preset; gradient samples are not drawn.
            steps: Length of the run, if known; bounds what ``standard`` records.
            first_step: Updates made before, in a run that is resumed with ``mode="a"``.
            source: Whether the loss is that of a mini-batch or of the whole data.
            batch_size: Examples behind one gradient.
            dataset_size: Examples to draw from.
            groups: ``layers``, ``scale_invariant``.
            metadata: Anything that JSON can hold.
            on_error: ``warn``: should recording fail, it stops with a warning; ``raise``.
            mode: ``x``, ``w`` or ``a``.
            compression: None, ``zstd`` or ``gzip``.
            durability: ``process`` or ``power``.
            background: Whether a thread writes while training goes on.
            queue_bytes: The most it may hold; training waits once it is full.

        Raises:
            UsageError: If an argument is wrong or the path is taken.
        """
        super().__init__()
        chosen = schedule_of(schedule, steps)
        if GRADIENT_SAMPLES in chosen.streams:
            if isinstance(schedule, Schedule):
                raise UsageError(
                    "the schedule asks for gradient_samples, which Keras' loop has no place for"
                )
            chosen = chosen.without(GRADIENT_SAMPLES)
        self.schedule = chosen
        self._optimizer: Any = None
        self._due: frozenset[str] = frozenset()
        self._row = Row()
        self._before: dict[str, Any] = {}
        self._rate_before = 0.0
        self._losses: tuple[Any, float, float] | None = None
        told = {"source": source, "batch_size": batch_size, "dataset_size": dataset_size}
        self._session = Session(
            path,
            chosen,
            on_error=on_error,
            first_step=first_step,
            statements={
                "groups": groups,
                "gradient": {key: value for key, value in told.items() if value is not None},
                "metadata": metadata,
                "optimizer": None,
            },
            mode=mode,
            compression=compression,
            durability=durability,
            background=background,
            queue_bytes=queue_bytes,
        )

    @property
    def recording(self) -> bool:
        """Whether recording goes on: it has neither failed nor been closed."""
        return self._session.recording

    def optimizer(self, optimizer: Any) -> Any:
        """An optimizer of the same class and settings that keeps its gradients.

        Args:
            optimizer: A Keras optimizer that has not been used yet.

        Returns:
            The one to compile the model with.

        Raises:
            UsageError: If it accumulates gradients over batches, wraps another optimizer, or has
                been built.
        """
        if getattr(optimizer, "built", False):
            raise UsageError("the optimizer has been used already; make a new one to record")
        if getattr(optimizer, "gradient_accumulation_steps", None):
            raise UsageError("gradient_accumulation_steps is not recorded; use larger batches")
        if hasattr(optimizer, "inner_optimizer"):
            raise UsageError(
                f"a {type(optimizer).__name__} wraps another optimizer: record the inner one"
            )
        kind: Any = _keeping(type(optimizer))
        made = kind.from_config(optimizer.get_config())
        self._optimizer = made
        clips = any(getattr(made, k, None) for k in ("clipnorm", "clipvalue", "global_clipnorm"))
        self._session.state("optimizer", **_statement(made))
        self._session.state("gradient", stage="raw", **({"applied": "clipped"} if clips else {}))
        return made

    # -- Keras' hooks ------------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that the model trains with the optimizer that keeps its gradients.

        Args:
            logs: Left alone.

        Raises:
            UsageError: If it does not, or several batches run between callbacks.
        """
        if self._optimizer is None or self.model.optimizer is not self._optimizer:
            raise UsageError(
                "the model is not compiled with the optimizer that records: "
                "model.compile(optimizer=recorder.optimizer(...))"
            )
        if getattr(self.model, "steps_per_execution", 1) != 1:
            raise UsageError("steps_per_execution must be 1, so that every batch can be seen")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Take the parameters and the optimizer's state, before they move."""
        self._row, self._due, self._before = Row(), frozenset(), {}
        with self._session.guarded():
            self._due = self._session.due()
            if self._session.clock.listens or self._due:
                self._set_loss_apart()
            if self._due:
                self._take_before()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Take the gradients, and record the step."""
        with self._session.guarded():
            loss = self._loss_of_batch(logs)
            if self._due:
                self._take_after(loss)
                self._session.append(self._row)
        self._session.step += 1

    def on_train_end(self, logs: Any = None) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Commit what is queued and close the file."""
        self._session.close()

    # -- one step ----------------------------------------------------------------------------

    def _take_before(self) -> None:
        model = self.model  # with JAX, this brings the variables up to date
        if PARAMS in self._due:
            self._row.streams[PARAMS] = self._arrays(PARAMS, model.trainable_variables)
        if UPDATES in self._due:
            self._before = dict(self._arrays(UPDATES, model.trainable_variables))
            self._rate_before = float(self._optimizer.learning_rate)
        if SCALARS in self._due:
            self._row.scalars["learning_rate"] = float(self._optimizer.learning_rate)
        if OPTIMIZER in self._due and self._optimizer.built:
            self._row.slots = dict(self._slots())

    def _take_after(self, loss: float | None) -> None:
        model = self.model
        variables = model.trainable_variables
        if GRADIENTS in self._due:
            kept = self._optimizer.kept_gradients
            self._row.streams[GRADIENTS] = self._arrays(GRADIENTS, variables, kept)
        if UPDATES in self._due:
            # At learning rate 0 nothing moves, whatever U_k.
            rate = np.float32(self._rate_before or 1.0)
            after: dict[str, Any] = self._arrays(UPDATES, variables)
            self._row.streams[UPDATES] = {
                name: np.asarray((before - after[name]) / rate, before.dtype)
                for name, before in self._before.items()
            }
        if SCALARS in self._due:
            self._row.scalars["loss"] = loss
        if not self._session.began:
            params = self._arrays(PARAMS, variables)
            like: dict[str, Any] = dict.fromkeys((PARAMS, GRADIENTS, UPDATES), params)
            like |= {OPTIMIZER_PREFIX + slot: held for slot, held in self._slots().items()}
            self._session.declare(self._row, like)

    def _arrays(self, stream: str, named: Any, values: Any = None) -> dict[str, Array]:
        """Copies, by the paths of the variables."""
        return {
            variable.path: np.array(keras.ops.convert_to_numpy(value))
            for variable, value in zip(named, named if values is None else values, strict=True)
            if self.schedule.chooses(stream, variable.path)
        }

    def _slots(self) -> dict[str, dict[str, Array]]:
        """The optimizer's variables that belong to a parameter, by slot."""
        slots: dict[str, dict[str, Array]] = {}
        adam = type(self._optimizer).__name__ in _ADAMS
        for parameter in self.model.trainable_variables:
            prefix = parameter.path.replace("/", "_") + "_"
            for variable in self._optimizer.variables:
                slot = variable.name.removeprefix(prefix)
                if slot == variable.name or slot == _KEPT or variable.shape != parameter.shape:
                    continue
                slot = _SLOTS.get(slot, slot) if adam else slot
                if self.schedule.chooses(OPTIMIZER, parameter.path):
                    held = np.array(keras.ops.convert_to_numpy(variable))
                    slots.setdefault(slot, {})[parameter.path] = held
        return slots

    def _set_loss_apart(self) -> None:
        """Empty Keras' running mean of the loss, so that after the batch it holds that batch's.

        `_loss_of_batch` adds back what it held, with the additions that Keras would have made.
        """
        tracker = next((m for m in self.model.metrics if m.name == "loss"), None)
        if tracker is None or not hasattr(tracker, "total") or not hasattr(tracker, "count"):
            return
        self._losses = (tracker, _number(tracker.total), _number(tracker.count))
        tracker.total.assign(0.0)
        tracker.count.assign(0.0)

    def _loss_of_batch(self, logs: Any) -> float | None:
        if self._losses is None:
            return None
        tracker, total, count = self._losses
        self._losses = None
        _ = self.model  # with JAX, this brings the variables up to date
        loss = _number(tracker.result())
        tracker.total.assign_add(total)
        tracker.count.assign_add(count)
        if isinstance(logs, dict) and "loss" in logs:
            logs["loss"] = _number(tracker.result())
        return loss


def _keeping(kind: type) -> type:
    """A class of optimizer that keeps the gradients it is given."""

    class Keeping(kind):  # type: ignore[misc]  # any optimizer's class
        """Keeps the gradients of its last update in `kept_gradients`."""

        built: bool
        kept_gradients: list[Any]

        def build(self, variables: Any) -> None:
            super().build(variables)
            self.kept_gradients = [
                self.add_variable_from_reference(variable, name=_KEPT) for variable in variables
            ]

        def apply(self, grads: Any, trainable_variables: Any = None) -> None:
            if not self.built and trainable_variables is not None:
                with keras.src.backend.name_scope(self.name, caller=self):
                    self.build(list(trainable_variables))
                self.built = True
            scale = self.loss_scale_factor
            for kept, gradient in zip(self.kept_gradients, grads, strict=True):
                if gradient is not None:
                    kept.assign(gradient if scale is None else gradient / scale)
            super().apply(grads, trainable_variables)

    Keeping.__name__ = kind.__name__
    return Keeping


def _statement(optimizer: Any) -> dict[str, Any]:
    name = type(optimizer).__name__
    told: dict[str, Any] = {"name": name}
    for ours, theirs in (("momentum", "momentum"), ("nesterov", "nesterov"), ("eps", "epsilon"),
                         ("amsgrad", "amsgrad"), ("weight_decay", "weight_decay")):  # fmt: skip
        value = getattr(optimizer, theirs, None)
        if isinstance(value, bool | int | float):
            told[ours] = value
    betas = [getattr(optimizer, key, None) for key in ("beta_1", "beta_2")]
    if all(isinstance(beta, float) for beta in betas):
        told["betas"] = betas
    if told.get("weight_decay"):
        told["decoupled_weight_decay"] = True  # Keras takes it off the weights, whichever optimizer
    return told


def _number(value: Any) -> float:
    return float(keras.ops.convert_to_numpy(value))
