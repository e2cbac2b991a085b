"""What all recorders share: a writer, a schedule at work, and what happens when recording fails."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal

from trajfile.containers import Compression, Durability
from trajfile.errors import UsageError
from trajfile.intake import Given
from trajfile.recorders.clock import Clock
from trajfile.recorders.schedule import OPTIMIZER, SCALARS, Schedule
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS, OPTIMIZER_PREFIX, PARAMS, UPDATES
from trajfile.writer import Mode, Writer

OnError = Literal["warn", "raise"]


class RecordingWarning(UserWarning):
    """Recording has stopped or is not what it seems; training goes on."""


@dataclass
class Row:
    """What one step holds, as `Writer.append` takes it; the caller's memory, not copies."""

    streams: dict[str, Given] = field(default_factory=dict)
    slots: dict[str, Given] = field(default_factory=dict)
    scalars: dict[str, object] = field(default_factory=dict)


class Session:
    """One recording.

    Attributes:
        step: Number of updates made, which is the step that comes next.
        schedule: What is recorded when.
        recording: False once it has failed or is closed.
        began: Whether something has been appended, so that streams and statements are fixed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        schedule: Schedule,
        *,
        on_error: OnError = "warn",
        first_step: int = 0,
        statements: Mapping[str, Mapping[str, Any] | None],
        mode: Mode = "x",
        compression: Compression = None,
        durability: Durability = "process",
        background: bool = True,
        queue_bytes: int = 256 * 2**20,
    ):
        """Open a recording.

        Args:
            path: Where; see `trajfile.Writer`. None: keep step with another process that writes.
            schedule: What to record when.
            on_error: ``warn``: recording stops with a `RecordingWarning` and training goes on;
                ``raise``: the error ends the training.
            first_step: The step that comes first: the updates made before, in a resumed run.
            statements: ``optimizer``, ``groups``, ``gradient`` and ``metadata``.
            mode: See `trajfile.Writer`.
            compression: See `trajfile.Writer`.
            durability: See `trajfile.Writer`.
            background: Whether a thread writes while training goes on.
            queue_bytes: The most that is held for that thread; training waits once it is full.

        Raises:
            UsageError: If an argument is wrong or the path is taken.
        """
        if on_error not in ("warn", "raise"):
            raise UsageError(f"on_error is {on_error!r}, expected 'warn' or 'raise'")
        if first_step < 0:
            raise UsageError(f"first_step is {first_step}, expected at least 0")
        self.schedule = schedule
        self.step = first_step
        self.recording = True
        self.began = False
        self.clock = Clock(schedule)
        self._on_error = on_error
        self._path = path
        self._last = -1
        self._statements: dict[str, Any] = {k: dict(v or {}) for k, v in statements.items()}
        self._options: dict[str, Any] = {
            "mode": mode,
            "compression": compression,
            "durability": durability,
            "background": background,
            "queue_bytes": queue_bytes,
        }
        self._writer = self._open()

    def state(self, statement: str, **what: object) -> None:
        """Add to what is stated of the run; only before the first append.

        Args:
            statement: ``optimizer``, ``groups``, ``gradient`` or ``metadata``.
            **what: Keys and values; one that was stated stays.
        """
        self._statements[statement] = {**what, **self._statements[statement]}
        if self._writer is not None:
            self._writer.close()  # nothing is written yet
            self._writer = self._open()

    def stated(self, statement: str) -> Mapping[str, Any]:
        """What is stated of the run."""
        held: Mapping[str, Any] = self._statements[statement]
        return held

    def due(self, loss: float | None = None) -> frozenset[str]:
        """What the coming step is due for; scalars join whatever else is.

        Args:
            loss: Its loss, if it is known.

        Returns:
            See `Clock.due`; nothing once recording has stopped, or for a step already recorded.
        """
        return self.admitted(self.clock.due(self.step, loss))

    def admitted(self, scheduled: frozenset[str]) -> frozenset[str]:
        """What of the streams that the clock names can be recorded now, and scalars with them."""
        if not self.recording or self.step <= self._last:
            return frozenset()
        if scheduled and SCALARS in self.schedule.streams:
            return scheduled | {SCALARS}
        return scheduled

    def declare(self, row: Row, like: Mapping[str, Given]) -> None:
        """Declare, before the first append, every scheduled stream that its row does not hold.

        Args:
            row: The first row.
            like: By stream, tensors of the shapes and dtypes it will hold.
        """
        if self.began or self._writer is None:
            return
        wanted = {*self.schedule.streams} & {GRADIENTS, UPDATES, GRADIENT_SAMPLES, PARAMS}
        for stream, tensors in like.items():
            slot = stream.startswith(OPTIMIZER_PREFIX)
            held = stream.removeprefix(OPTIMIZER_PREFIX) in row.slots if slot else False
            due = OPTIMIZER in self.schedule.streams if slot else stream in wanted
            if due and tensors and not held and not row.streams.get(stream):
                self._writer.declare(stream, tensors)

    def append(self, row: Row) -> None:
        """Record the coming step.

        Args:
            row: What it holds.
        """
        streams = {name: given for name, given in row.streams.items() if given}
        if self._writer is not None:
            self._writer.append(
                self.step,
                params=streams.get(PARAMS),
                gradients=streams.get(GRADIENTS),
                updates=streams.get(UPDATES),
                gradient_samples=streams.get(GRADIENT_SAMPLES),
                optimizer={slot: given for slot, given in row.slots.items() if given},
                scalars=row.scalars,
            )
        if streams or row.slots or row.scalars or self._writer is None:
            self.began = True
            self._last = self.step

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Let no failure of recording out into the training, unless it was asked for.

        Yields:
            Nothing.
        """
        try:
            yield
        except Exception as error:
            if self._on_error == "raise":
                raise
            if self.recording:
                self.recording = False
                with suppress(Exception):
                    self._close()
                warnings.warn(
                    f"recording to {self._path} stopped at step {self.step}, what was "
                    f"committed before stays readable, and training goes on: {error}",
                    RecordingWarning,
                    stacklevel=4,
                )

    def close(self) -> None:
        """Commit what is queued and close the file; closing twice does nothing."""
        with self.guarded():
            self._close()
        self.recording = False

    def _open(self) -> Writer | None:
        if self._path is None:
            return None
        return Writer(self._path, **self._options, **self._statements)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
