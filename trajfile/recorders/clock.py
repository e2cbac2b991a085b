"""The schedule at work: which streams a step is due for, given the losses heard so far."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from trajfile.recorders.cadence import OnSpike, parts_of
from trajfile.recorders.schedule import Schedule

#: Losses behind the median that a spike is held against, and the fewest of them.
WINDOW = 50
FEWEST = 5


class Clock:
    """Tells at each step what is to be recorded.

    Attributes:
        listens: Whether any rule depends on the loss, so that it must be told at every step.
    """

    def __init__(self, schedule: Schedule):
        self._schedule = schedule
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._until: dict[str, int] = {}
        self._spikes = {
            stream: [part for part in parts_of(selection.when) if isinstance(part, OnSpike)]
            for stream, selection in schedule.streams.items()
        }
        self.listens = any(self._spikes.values())

    def due(self, step: int, loss: float | None = None) -> frozenset[str]:
        """What a step is due for.

        Args:
            step: The step; ask once for each.
            loss: Its loss, where rules listen to it.

        Returns:
            Names of streams, ``optimizer`` for all slots, ``scalars`` for the scalars.
        """
        if self.listens and loss is not None:
            self._hear(step, loss)
        return frozenset(
            stream
            for stream, selection in self._schedule.streams.items()
            if step < self._until.get(stream, 0) or selection.when.due(step)
        )

    def burst(self, step: int, length: int) -> None:
        """Ask for ``length`` steps from ``step`` on, of every scheduled stream but the samples."""
        for stream in self._schedule.streams:
            if stream != "gradient_samples":
                self._until[stream] = max(self._until.get(stream, 0), step + length)

    def _hear(self, step: int, loss: float) -> None:
        enough = len(self._losses) >= FEWEST
        usual = float(np.median(self._losses)) if enough else math.inf
        for stream, rules in self._spikes.items():
            for rule in rules:
                if not math.isfinite(loss) or (loss > rule.factor * usual and usual > 0):
                    # Prolonged by each further spike, not restarted: a run that stays high is
                    # the new usual once its losses fill half of the window.
                    self._until[stream] = max(self._until.get(stream, 0), step + rule.length)
        if math.isfinite(loss):
            self._losses.append(loss)
