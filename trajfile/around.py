"""Around an event: which steps an analysis narrows to, and what it says of them.

The window is counted in recorded snapshots, not in steps, so that it holds as much to look at
whatever the cadence. Streams and scalars of another cadence are cut at the same steps.
"""

from __future__ import annotations

import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Need
from trajfile.errors import UsageError
from trajfile.metrics.base import Skipped
from trajfile.metrics.first_movers import FirstMovers, Movement
from trajfile.reader import Trajectory
from trajfile.report import Around, Finding, Severity
from trajfile.schema import PARAMS

#: Snapshots on either side of the event, unless stated.
WINDOW = 20

#: Beyond the last snapshot an event is still near it within this many of the snapshots' usual
#: strides: a loss that turns NaN between two snapshots is worth looking at from the first.
_NEAR = 2


def select(
    trajectory: Trajectory, steps: slice | str | None, around: int | None, window: int | None
) -> Around | None:
    """The window around an event, if one is asked for.

    Args:
        trajectory: The run.
        steps: Another selection of steps, which goes with no event.
        around: The step of the event.
        window: How many snapshots to keep on either side.

    Returns:
        The window of `find_window`, or None.

    Raises:
        UsageError: If no snapshot is near the event, or the arguments do not go together.
    """
    for name, value in (("around", around), ("window", window)):
        _check_whole(name, value)
    if around is None:
        if window is not None:
            raise UsageError(f"window {window} is around a step: say around which one (around)")
        return None
    if steps is not None:
        raise UsageError(
            f"around {around} selects steps by itself: leave out steps {steps}, or say window=N"
        )
    return find_window(trajectory, around, window)


def _check_whole(name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer))):
        raise UsageError(f"{name} is a whole number, found {value!r}")


def find_window(trajectory: Trajectory, step: int, snapshots: int | None = None) -> Around:
    """The steps around an event.

    Args:
        trajectory: The run.
        step: The step of the event; it need not be recorded.
        snapshots: How many recorded snapshots to keep before the event and after it; `WINDOW`
            by default. One recorded at the step itself is kept besides.

    Returns:
        The window, with nothing said of the tensors yet.

    Raises:
        UsageError: If no snapshot is near the step, or `snapshots` is below 1.
    """
    wanted = WINDOW if snapshots is None else snapshots
    if wanted < 1:
        raise UsageError(
            f"a window of {wanted} snapshots on either side is none; give at least 1, or leave it "
            f"out for {WINDOW}"
        )
    steps = _leading(trajectory)
    if not len(steps):
        raise UsageError(f"{trajectory.path} holds no recorded row to look around step {step} in")
    first, last = int(steps[0]), int(steps[-1])
    if not near(step, first, last, len(steps)):
        raise UsageError(
            f"step {step} is outside the recorded snapshots of {trajectory.path}, which reach from "
            f"step {first} to {last}; the nearest is step {first if step < first else last}"
        )
    after = int(np.searchsorted(steps, step, side="right"))
    before = int(np.searchsorted(steps, step, side="left"))
    kept = steps[max(before - wanted, 0) : after + wanted]
    return Around(
        step=step,
        first_step=int(kept[0]),
        last_step=max(int(kept[-1]), step),
        before=int((kept < step).sum()),
        after=int((kept > step).sum()),
        widest_stride=int(np.diff(kept).max()) if len(kept) > 1 else None,
    )


def near(step: int, first: int, last: int, rows: int) -> bool:
    """Whether an event is among the snapshots, or so little beyond the last that they show it.

    Args:
        step: The step of the event.
        first: The first snapshot's step.
        last: The last snapshot's step.
        rows: How many snapshots there are, at least 1.

    Returns:
        Whether `find_window` takes it.
    """
    return first <= step <= last + _NEAR * (last - first) / max(rows - 1, 1)


def steps_of(window: Around) -> slice:
    """The window as a selection of steps."""
    return slice(window.first_step, window.last_step + 1)


def told(
    window: Around, movers: FirstMovers, need: frozenset[Need] | Skipped, measured: Measurements
) -> Around:
    """The window with the tensors that moved first, or why they cannot be named.

    Args:
        window: From `find_window`.
        movers: What ranks the tensors.
        need: What it needs, or why it cannot be had.
        measured: With that need answered.

    Returns:
        The window, told.
    """
    if isinstance(need, Skipped):
        movement = Movement(reason=need.reason)
    else:
        movement = movers.rank(measured, window.step)
    return structs.replace(
        window,
        tensors=len(measured.header.tensors.get(PARAMS, {})),
        movers=list(movement.movers),
        reason=movement.reason,
        notes=list(movement.notes),
        options=movers.options,
    )


def findings_around(around: Around) -> list[Finding]:
    """The finding ``around.first_movers``; none if nothing could be said.

    Args:
        around: From `told`.

    Returns:
        At most one finding.
    """
    if around.reason is not None:
        return []
    lost = [m for m in around.movers if m.non_finite_step is not None]
    evidence = {
        "step": around.step,
        "first_step": around.first_step,
        "last_step": around.last_step,
        "tensors": [m.tensor for m in around.movers],
        "onset_steps": [m.onset_step for m in around.movers],
        "seen_steps": [m.seen_step for m in around.movers],
        "factors": [m.factor for m in around.movers],
        "non_finite_steps": [m.non_finite_step for m in around.movers],
        **around.options,
    }
    severity: Severity = "error" if lost else "info"
    return [Finding("around.first_movers", severity, sentence(around), evidence)]


def sentence(around: Around) -> str:
    """Which tensors moved first, in one sentence; the reason if that cannot be said."""
    between = f"between steps {around.first_step} and {around.last_step}"
    if around.reason is not None:
        why = around.reason.rstrip(".")
        return f"Which tensors moved first around step {around.step} cannot be said: {why}."
    if not around.movers:
        least = around.options["least_factor"]
        return (
            f"No tensor stands out around step {around.step}: {between} none moved by "
            f"{least:g} times its usual step or more, beyond its usual spread."
        )
    first = around.movers[0]
    if first.non_finite_step is not None:
        stream = "" if first.non_finite_stream == PARAMS else f"{first.non_finite_stream} of "
        alike = [m for m in around.movers if m.non_finite_step == first.non_finite_step]
        return (
            f"The first to turn NaN or infinite, at step {first.non_finite_step}: {stream}"
            f"{first.tensor}{_others(len(alike) - 1, around.tensors)}."
        )
    alike = [m for m in around.movers if m.onset_step == first.onset_step]
    size = "from rest" if first.factor is None else f"by {first.factor:.3g} times its usual step"
    return (
        f"The first to move, {when(first.onset_step, first.seen_step)}: {first.tensor}, {size}"
        f"{_others(len(alike) - 1, around.tensors)}."
    )


def when(onset: int | None, seen: int | None) -> str:
    """From one snapshot to the next, in words: a single update, or all that the stride hides."""
    if onset is None or seen is None:
        return ""
    return f"in update {onset}" if seen == onset + 1 else f"between steps {onset} and {seen}"


def _others(count: int, of: int) -> str:
    return f", and {count} more of the {of} tensors" if count else ""


def _leading(trajectory: Trajectory) -> NDArray[np.int64]:
    """The steps that a window is counted in: of the snapshots, else of what else is recorded."""
    header: Header = trajectory.header()
    streams = sorted(header.steps, key=lambda stream: stream != PARAMS)
    for stream in streams:
        if len(header.steps[stream]):
            return np.unique(header.steps[stream])
    scalars = [steps for steps, _ in header.scalars.values()]
    return np.unique(np.concatenate([np.empty(0, np.int64), *scalars]))
