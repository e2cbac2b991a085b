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

from trajfile.containers import Compression, Durability
from trajfile.errors import UsageError
from trajfile.recorders.keras_loss import BatchLoss
from trajfile.recorders.keras_optimizer import keeping, statement_of
from trajfile.recorders.keras_package import keras
from trajfile.recorders.keras_rows import Rows
from trajfile.recorders.presets import Preset, schedule_of
from trajfile.recorders.schedule import SCALARS, Schedule
from trajfile.recorders.session import OnError, Row, Session
from trajfile.schema import GRADIENT_SAMPLES
from trajfile.writer import Mode


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
        self._rows, self._row, self._loss = Rows(chosen), Row(), BatchLoss()
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
        made = keeping(optimizer)
        self._optimizer = made
        clips = any(getattr(made, k, None) for k in ("clipnorm", "clipvalue", "global_clipnorm"))
        self._session.state("optimizer", **statement_of(made))
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
        self._due = frozenset()
        with self._session.guarded():
            due = self._session.due()
            if self._session.clock.listens or due:
                self._loss.set_apart(self.model.metrics)
            if due:  # with JAX, `model` brings the variables up to date
                self._row = self._rows.before(self.model, self._optimizer, due)
            self._due = due

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Take the gradients, and record the step."""
        with self._session.guarded():
            # With JAX, `model` brings the variables up to date.
            model = self.model if self._loss.is_apart or self._due else None
            loss = self._loss.take(logs)
            if self._due:
                self._rows.after(self._row, model, self._optimizer, self._due)
                if SCALARS in self._due:
                    self._row.scalars["loss"] = loss
                if not self._session.began:
                    like = self._rows.like(model, self._optimizer)
                    self._session.declare(self._row, like)
                self._session.append(self._row)
        self._session.step += 1

    def on_train_end(self, logs: Any = None) -> None:
        """Close the file."""
        self.close()

    def close(self) -> None:
        """Commit what is queued and close the file."""
        self._session.close()
