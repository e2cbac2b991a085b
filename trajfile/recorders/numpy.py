"""Record a hand-written loop: whatever makes the gradients, the schedule and the file are shared.

with Recorder("run.h5", optimizer={"name": "SGD"}) as recorder:
    for step in range(1000):
        loss, gradient = loss_and_gradient(theta)
        recorder.record(params=theta, gradients=gradient, loss=loss, learning_rate=0.1)
        theta = descend(theta, gradient)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from trajfile.containers import Compression, Durability
from trajfile.intake import Given
from trajfile.recorders.presets import Preset, schedule_of
from trajfile.recorders.schedule import OPTIMIZER, SCALARS, Schedule
from trajfile.recorders.session import OnError, Row, Session
from trajfile.schema import (
    GRADIENT_SAMPLES,
    GRADIENTS,
    OPTIMIZER_PREFIX,
    PARAMS,
    UPDATES,
)
from trajfile.writer import Mode

Later = Given | Callable[[], Given] | None
"""Arrays by name, or a function that makes them and is called only when they are due."""


class Recorder:
    """Records what a loop hands it, when the schedule asks for it.

    Arrays are anything that `trajfile.Writer` takes. What is due is copied once, into a queue of
    at most ``queue_bytes``, before `record` returns.

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
        optimizer: Mapping[str, Any] | None = None,
        gradient: Mapping[str, Any] | None = None,
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
            path: Where; see `trajfile.Writer`, as for ``optimizer`` and all from ``gradient`` on.
            schedule: What to record when, or a preset: ``minimal``, ``standard``, ``full``.
            steps: Length of the run, if known; bounds what ``standard`` records.
            first_step: Updates made before, in a run that is resumed with ``mode="a"``.
            optimizer: ``name``, ``weight_decay``, ``momentum``, ...
            gradient: ``stage``, ``source``, ``batch_size``, ``dataset_size``.
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
        self.schedule = schedule_of(schedule, steps)
        self._session = Session(
            path,
            self.schedule,
            on_error=on_error,
            first_step=first_step,
            statements={
                "optimizer": optimizer,
                "groups": groups,
                "gradient": gradient,
                "metadata": metadata,
            },
            mode=mode,
            compression=compression,
            durability=durability,
            background=background,
            queue_bytes=queue_bytes,
        )

    @property
    def step(self) -> int:
        """Number of the coming step."""
        return self._session.step

    @property
    def recording(self) -> bool:
        """Whether recording goes on: it has neither failed nor been closed."""
        return self._session.recording

    def record(
        self,
        *,
        params: Later = None,
        gradients: Later = None,
        updates: Later = None,
        optimizer: Mapping[str, Given] | Callable[[], Mapping[str, Given]] | None = None,
        gradient_samples: Given | Callable[[int], Given] | None = None,
        **scalars: Any,
    ) -> None:
        """Hand over a step; called once for each, with the params before their update.

        Args:
            params: By name.
            gradients: By name, taken at these params.
            updates: By name: what will be subtracted before the learning rate multiplies it.
            optimizer: By slot, then by name.
            gradient_samples: By name, shape (L, *shape); or a function that takes L and draws
                them.
            **scalars: ``loss``, ``learning_rate`` and any other number.
        """
        with self._session.guarded():
            loss = scalars.get("loss")
            listens = self._session.clock.listens
            due = self._session.due(float(loss) if listens and loss is not None else None)
            if due:
                row = Row(scalars=scalars if SCALARS in due else {})
                given = {PARAMS: params, GRADIENTS: gradients, UPDATES: updates}
                for stream, later in given.items():
                    if stream in due and later is not None:
                        row.streams[stream] = later() if callable(later) else later
                if OPTIMIZER in due and optimizer is not None:
                    row.slots = dict(optimizer() if callable(optimizer) else optimizer)
                if GRADIENT_SAMPLES in due and gradient_samples is not None:
                    row.streams[GRADIENT_SAMPLES] = (
                        gradient_samples(self.schedule.samples)
                        if callable(gradient_samples)
                        else gradient_samples
                    )
                if not self._session.began:
                    self._declare(row, given, optimizer)
                self._session.append(row)
        self._session.step += 1

    def burst(self, length: int) -> None:
        """Record the next steps whatever the schedule says: all streams but gradient samples.

        Args:
            length: How many steps.
        """
        self._session.clock.burst(self._session.step, length)

    def close(self) -> None:
        """Commit what is queued and close the file."""
        self._session.close()

    def __enter__(self) -> Self:
        """The recorder itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close; what the body raised goes on."""
        self.close()

    def _declare(self, row: Row, given: Mapping[str, Later], optimizer: Any) -> None:
        """Declare what the first row does not hold, like what it was handed or like the params."""
        made = {stream: later() if callable(later) else later for stream, later in given.items()}
        params = made[PARAMS] or {}
        like = {stream: made[stream] or params for stream in (PARAMS, GRADIENTS, UPDATES)}
        like[GRADIENT_SAMPLES] = made[GRADIENTS] or params
        slots = optimizer() if callable(optimizer) else optimizer
        like |= {OPTIMIZER_PREFIX + slot: held for slot, held in (slots or {}).items()}
        self._session.declare(row, {stream: held for stream, held in like.items() if held})
