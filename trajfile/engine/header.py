"""What is known of the selected part of a run before a single coordinate is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.needs import Timeline
from trajfile.schema import OPTIMIZER_PREFIX, TensorSpec


@dataclass(frozen=True)
class Header:
    """Steps, tensors, scalars and provenance of the selected part of a run.

    Attributes:
        steps: For each stream the step of each of its selected rows, int64. Increasing; in
            ``gradient_samples`` a step repeats once per sample.
        tensors: For each stream its selected tensors by name, in recorded order.
        scalars: For each scalar its (steps, values) where present, int64 and float64.
        optimizer: As in the manifest.
        groups: As in the manifest, narrowed to selected tensors.
        gradient: As in the manifest.
        metadata: As in the manifest.
        replay: Whether the user's loss is at hand, so that it can be asked beside the file.
        checkpoints: Whether the run is a folder of checkpoints, which nobody can record more into.
        joined: For each stream the tensors that its first row does not hold, each with the step
            of the first row that does.
        learning_rate: The scalar of that name as in `scalars`, but of the whole run: a value
            recorded before the selected part is in force in it. None: that of `scalars`.
        left_out: For each stream of which damaged rows were left out, which, in words.
    """

    steps: Mapping[str, NDArray[np.int64]]
    tensors: Mapping[str, Mapping[str, TensorSpec]]
    scalars: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]
    optimizer: Mapping[str, Any]
    groups: Mapping[str, tuple[str, ...]]
    gradient: Mapping[str, Any]
    metadata: Mapping[str, Any]
    replay: bool = False
    checkpoints: bool = False
    joined: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    learning_rate: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    _timelines: dict[Timeline, NDArray[np.int64]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def has(self, *streams: str) -> bool:
        """Whether each of the streams has at least one selected row and tensor."""
        return all(
            len(self.steps.get(stream, ())) > 0 and len(self.tensors.get(stream, ())) > 0
            for stream in streams
        )

    def timeline_steps(self, timeline: Timeline) -> NDArray[np.int64]:
        """The steps of a timeline.

        Args:
            timeline: Any timeline over streams of this run.

        Returns:
            Its steps, int64, strictly increasing, read-only; empty if a stream is missing.
        """
        if timeline not in self._timelines:
            empty = np.empty(0, np.int64)
            common = reduce(_common, [self.steps.get(s, empty) for s in timeline.along])
            steps = timeline.pick(common).view()
            steps.flags.writeable = False
            self._timelines[timeline] = steps
        return self._timelines[timeline]

    def scalar_at(self, name: str, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """The scalar's value at exactly the given steps.

        Args:
            name: The scalar.
            steps: Steps, int64, shape (n,).

        Returns:
            float64, shape (n,); NaN where it was not recorded.
        """
        values = np.full(len(steps), np.nan)
        if name in self.scalars and len(self.scalars[name][0]):
            at, recorded = self.scalars[name]
            index = np.clip(np.searchsorted(at, steps), 0, len(at) - 1)
            found = at[index] == steps
            values[found] = recorded[index[found]]
        return values

    def learning_rate_at(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """The learning rate in force at each step: recorded there, or last recorded before.

        Learning rates are schedules: between two recordings the earlier value holds. Without a
        ``learning_rate`` scalar the optimizer's ``learning_rate`` (or ``lr``) serves, if given.

        Args:
            steps: Steps, int64, shape (n,).

        Returns:
            float64, shape (n,); NaN where nothing is known.
        """
        series = self.learning_rate or self.scalars.get("learning_rate")
        if series is not None and len(series[0]):
            at, recorded = series
            index = np.searchsorted(at, steps, side="right") - 1
            return np.where(index >= 0, recorded[np.maximum(index, 0)], np.nan)
        constant = self.optimizer.get("learning_rate", self.optimizer.get("lr"))
        return np.full(len(steps), np.nan if constant is None else float(constant))

    @property
    def optimizer_slots(self) -> tuple[str, ...]:
        """Streams ``optimizer/<slot>`` that hold rows."""
        return tuple(s for s in self.steps if s.startswith(OPTIMIZER_PREFIX) and self.has(s))

    @property
    def momentum(self) -> float:
        """The optimizer's momentum (Adam: beta_1); 0 if none is stated."""
        if self.optimizer.get("momentum"):
            return float(self.optimizer["momentum"])
        betas = self.optimizer.get("betas")
        return float(betas[0]) if betas else 0.0

    @property
    def weight_decay(self) -> float:
        """The weight decay; 0 if none is stated."""
        return float(self.optimizer.get("weight_decay") or 0.0)

    @property
    def is_plain_sgd(self) -> bool:
        """SGD without momentum and with coupled decay, so that U = g + weight_decay * theta."""
        return (
            str(self.optimizer.get("name", "")).upper() in {"SGD", "GD"}
            and self.momentum == 0.0
            and not self.optimizer.get("nesterov", False)
            and not self.optimizer.get("decoupled_weight_decay", False)
        )


def _common(one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """The steps that are in both, increasing and each once; mostly that is all of them."""
    if len(one) == len(other) and bool((one == other).all()) and bool((np.diff(one) > 0).all()):
        return one
    return np.intersect1d(one, other)
