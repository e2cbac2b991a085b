"""Which tensors moved first around an event, each held against its own usual step."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Inner, Need, Row, Timeline
from trajfile.metrics.base import Skipped
from trajfile.metrics.ranges import Count, Factor, NotNegative, Positive
from trajfile.metrics.robust import finite
from trajfile.metrics.rowwise import of_tensors
from trajfile.metrics.snapshots import SNAPSHOTS, STEP, THETA
from trajfile.report import Mover, number
from trajfile.schema import PARAMS

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Streams that a tensor may turn non-finite in. Where both do at one step, the parameters come
#: first: a gradient is taken at them.
_WATCHED = (PARAMS, "gradients", "updates")

#: The standard deviation of a normal distribution over its median absolute deviation.
_NORMAL = 1.4826


@dataclass(frozen=True)
class Movement:
    """What moved around an event.

    Attributes:
        movers: The tensors that did, first mover first.
        reason: Why nothing can be said, else None.
        notes: What must be known to read it, one sentence each.
    """

    movers: tuple[Mover, ...] = ()
    reason: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FirstMovers:
    """Ranks the tensors of a window by when they left their usual step behind.

    Of each tensor the relative displacement r_i = ‖θ_{i+1} - θ_i‖/‖θ_i‖ between consecutive
    snapshots is held, in logarithm, against its median over strides as long in the first or the
    second half of the snapshots before the event, whichever is the lower: steps may shrink towards
    an event, or the event have begun before the step at which it is noticed. Where halves are too
    few, it is the median of all before the event, or of the window. It has moved where r_i is
    `least_factor` times the usual one and `significance` spreads beyond it; the spread is 1.4826
    times the median absolute deviation, of the tensor's own or of the median tensor if that is
    larger, and at least `least_spread`.
    The onset is looked for from the second half on.

    Attributes:
        significance: Spreads beyond the usual step from which on a tensor has moved.
        least_factor: Times its usual step that it must have moved as well.
        fewest: Displacements over one stride below which there is no usual step.
        least_spread: Smallest spread of ln r taken for real.
    """

    id: ClassVar[str] = "around"

    significance: NotNegative = 6.0
    least_factor: Factor = 3.0
    fewest: Count = 5
    least_spread: Positive = 0.05

    @property
    def options(self) -> dict[str, float]:
        """The option fields and their values in force."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def needs(self, header: Header) -> frozenset[Need] | Skipped:
        """Each tensor's squared norms and displacements, and what shows non-finite values."""
        if not header.has(PARAMS):
            return Skipped("no params are recorded; append params=... at each step", PARAMS)
        watched = [_values(stream) for stream in _WATCHED if header.has(stream)]
        return frozenset(Inner(row, row, per_tensor=True) for row in (*watched, STEP))

    def rank(self, measured: Measurements, step: int) -> Movement:
        """The tensors that moved, those with non-finite values first, then by onset and size.

        Args:
            measured: Of the window, with `needs` answered.
            step: The step of the event.

        Returns:
            The ranking.
        """
        if not measured.per_tensor_kept:
            return Movement(
                reason="the memory budget left no room for per-tensor values; give a larger "
                "--memory"
            )
        lost = _non_finite(measured)
        moved, reason, notes = self._moved(measured, step)
        ranked = [
            structs.replace(
                moved.get(name) or Mover(name), non_finite_step=at, non_finite_stream=stream
            )
            for name, (at, stream) in lost.items()
        ]
        ranked += sorted(
            (mover for name, mover in moved.items() if name not in lost),
            key=lambda m: (m.onset_step or 0, -(math.inf if m.factor is None else m.factor)),
        )
        return Movement(tuple(ranked), None if ranked else reason, tuple(notes))

    def _moved(
        self, measured: Measurements, step: int
    ) -> tuple[dict[str, Mover], str | None, list[str]]:
        """The movers by tensor, or why there can be none, and notes."""
        steps = measured.header.timeline_steps(SNAPSHOTS)
        strides = np.diff(steps)
        if len(strides) < self.fewest:
            return {}, f"{len(steps)} snapshots in the window show no usual step", []
        logs = _log_displacements(measured)
        half = int(np.searchsorted(steps, step)) // 2
        centre, spread, notes = self._reference(logs, steps, step, half)
        judged = ~np.isnan(centre) & ~np.isnan(logs)
        if not judged.any():
            return {}, f"fewer than {self.fewest} displacements in the window are alike", []
        judged[:, :half] = False
        with np.errstate(divide="ignore", invalid="ignore"):  # a tensor at rest has ln r = -inf
            beyond = logs - centre
            score = beyond / spread
        regular = np.isfinite(centre) & np.isfinite(beyond) & (score >= self.significance)
        out = judged & (
            (regular & (beyond >= math.log(self.least_factor)))
            | ((centre == -np.inf) & (logs > -np.inf))  # a tensor that lay still
        )
        movers = {}
        names = list(measured.header.tensors[PARAMS])
        for k in np.flatnonzero(out.any(axis=1)).tolist():
            i = int(np.argmax(out[k]))
            movers[names[k]] = Mover(
                names[k],
                onset_step=int(steps[i]),
                seen_step=int(steps[i + 1]),
                factor=number(math.exp(beyond[k, i])) if regular[k, i] else None,
                largest_factor=_largest(beyond[k][out[k]]),
                score=number(score[k, i]),
                usual=number(math.exp(centre[k, i])),
            )
        return movers, None, [*notes, *self._resolution(strides, judged)]

    def _reference(
        self, logs: Float, steps: NDArray[np.int64], step: int, half: int
    ) -> tuple[Float, Float, list[str]]:
        """Usual ln r and its spread, (tensors, rows), and what must be said of the choice."""
        strides, before = np.diff(steps), steps[1:] <= step
        early = np.arange(len(strides)) < half
        centre, spread = self._usual(logs, strides, early)
        # The quieter half: steps may shrink towards the event, or the event have begun.
        later, scatter = self._usual(logs, strides, before & ~early)
        quieter = np.isfinite(later) & ~(centre <= later)
        centre, spread = np.where(quieter, later, centre), np.where(quieter, scatter, spread)
        if np.isnan(centre).all():
            centre, spread = self._usual(logs, strides, before)
        if not np.isnan(centre).all():
            return centre, spread, []
        note = "Too few snapshots lie before the event to show a usual step; that of the whole "
        return (*self._usual(logs, strides, steps[1:] >= 0), [note + "window is taken."])

    def _usual(self, logs: Float, strides: NDArray[np.int64], usual: Mask) -> tuple[Float, Float]:
        """The usual ln r of each tensor over each stride and its spread, (tensors, rows)."""
        centre, spread = np.full(logs.shape, np.nan), np.full(logs.shape, np.nan)
        for stride in np.unique(strides):
            alike = strides == stride
            sample = logs[:, alike & usual]
            known = (~np.isnan(sample)).sum(axis=1)
            middle = np.where(known >= self.fewest, _medians(sample), np.nan)
            resting = np.isneginf(np.where(np.isnan(sample), -np.inf, sample)).all(axis=1)
            told = np.isfinite(middle) | (resting & (known >= self.fewest))
            centre[:, alike] = np.where(told, middle, np.nan)[:, None]
            with np.errstate(invalid="ignore"):
                own = _NORMAL * _medians(np.abs(sample - middle[:, None]))
            own[~np.isfinite(middle)] = np.nan
            if np.isfinite(own).any():
                least = max(self.least_spread, float(np.median(own[np.isfinite(own)])))
                own = np.maximum(own, least)
            spread[:, alike] = own[:, None]
        return centre, spread

    def _resolution(self, strides: NDArray[np.int64], judged: Mask) -> list[str]:
        notes = []
        if strides.max() > 1:
            notes.append(
                f"Snapshots are up to {strides.max()} steps apart: an onset is known only to lie "
                "between two of them, and tensors that moved between the same two are ranked by "
                "size."
            )
        kept = np.asarray(judged.any(axis=0))
        hidden = int((~kept[np.argmax(kept) :]).sum())
        if hidden:
            notes.append(
                f"{hidden} displacements have no usual step of their stride, or are not finite, "
                "and are not judged."
            )
        return notes


def _values(stream: str) -> Row:
    return THETA if stream == PARAMS else Row(stream, Timeline((stream,)))


def _log_displacements(measured: Measurements) -> Float:
    """Ln r, float64, shape (tensors, snapshots - 1): -inf at rest, NaN where it is unknown."""
    names = list(measured.header.tensors[PARAMS])
    square = of_tensors(measured, THETA, THETA, names)[1][:, :-1]
    step = of_tensors(measured, STEP, STEP, names)[1][:, :-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(step == 0, 0.0, step / square)
        return np.where(np.isfinite(ratio), 0.5 * np.log(ratio), np.nan)


def _medians(values: Float) -> Float:
    """The median of what is not NaN of each row, infinities among it; NaN of an empty one."""
    if not values.shape[1]:
        return np.full(len(values), np.nan)
    ordered, row = np.sort(values, axis=1), np.arange(len(values))
    count = (~np.isnan(values)).sum(axis=1)
    low, high = ordered[row, np.maximum(count - 1, 0) // 2], ordered[row, count // 2]
    return np.asarray(np.where(count % 2, low, (low + high) / 2))


def _non_finite(measured: Measurements) -> dict[str, tuple[int, str]]:
    """The tensors with non-finite values, the earliest first: the step and the stream."""
    header = measured.header
    found: dict[str, tuple[int, int]] = {}
    for rank, stream in enumerate(_WATCHED):
        if not header.has(stream):
            continue
        row = _values(stream)
        steps = header.timeline_steps(row.timeline)
        names, squares = of_tensors(measured, row, row)
        bad: Mask = ~np.isfinite(squares)
        # NaN before a tensor joined is no fault of it.
        late = np.array([header.tensors[stream][name].first_row > 0 for name in names], np.bool_)
        bad &= ~late[:, None] | np.logical_or.accumulate(~bad, axis=1)
        for k in np.flatnonzero(bad.any(axis=1)).tolist():
            entry = (int(steps[np.argmax(bad[k])]), rank)
            found[names[k]] = min(found.get(names[k], entry), entry)
    ordered = sorted(found.items(), key=lambda item: item[1])
    return {name: (step, _WATCHED[rank]) for name, (step, rank) in ordered}


def _largest(beyond: Float) -> float | None:
    """The largest factor among logarithms of factors; None if no usual step is known."""
    kept = finite(beyond)
    return float(np.exp(kept.max())) if len(kept) else None
