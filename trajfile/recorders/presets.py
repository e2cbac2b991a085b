"""Three schedules to start from: `minimal`, `standard` and `full`."""

from __future__ import annotations

from typing import Literal, get_args

from trajfile.errors import UsageError
from trajfile.recorders.schedule import Schedule

Preset = Literal["minimal", "standard", "full"]

#: A preset asks for no more bursts than this where the run's length is known.
_BURSTS = 100
#: Steps from one burst of `standard` to the next, at the least: what keeps its cost at a few per
#: cent of the step time for ten million parameters (tests/bench/recording.py).
_APART = 500


def preset(name: Preset | str, steps: int | None = None) -> Schedule:
    """A schedule by its name.

    ``minimal`` takes snapshots evenly on a log scale: a few dozen in a run of any length. It
    answers how far the parameters went, their norms, the layers' imbalance.

    ``standard`` takes bursts of consecutive steps of parameters and gradients, at the start of
    each five hundred steps (with ``steps``: at least a hundredth of the run apart), the
    optimizer's slots ten times more rarely, and gradient samples, if there is a way to draw them.
    It answers everything for runs of some thousand steps, at a few per cent of the step time.

    ``full`` takes everything at every step, and gradient samples at each hundredth: for small
    models, or a few hundred steps of a large one.

    Args:
        name: Of the preset.
        steps: Length of the run, if it is known: bounds what ``standard`` records of it.

    Returns:
        The schedule. `Schedule.describe` says what it costs for a model.

    Raises:
        UsageError: If there is none of that name, or ``steps`` is below 1.
    """
    if steps is not None and steps < 1:
        raise UsageError(f"steps is {steps}, expected at least 1")
    if name == "minimal":
        return Schedule(params="log 10", scalars="every 10", name=name)
    if name == "standard":
        apart = max(_APART, (steps or 0) // _BURSTS)
        burst = f"3 every {apart}"
        return Schedule(
            params=burst,
            gradients=burst,
            optimizer=f"every {10 * apart}",
            gradient_samples=f"every {5 * apart}",
            scalars="every 10",
            name=name,
        )
    if name == "full":
        return Schedule(
            params=1, gradients=1, updates=1, optimizer=1, gradient_samples=100, name=name
        )
    raise UsageError(f"preset {name!r} is unknown: use {', '.join(get_args(Preset))}")


def schedule_of(given: Schedule | Preset | str, steps: int | None = None) -> Schedule:
    """A schedule, or the preset of that name.

    Args:
        given: What a recorder was given.
        steps: Length of the run, if it is known.

    Returns:
        The schedule.

    Raises:
        UsageError: If it is neither.
    """
    if isinstance(given, Schedule):
        return given
    if not isinstance(given, str):
        raise UsageError(f"schedule is a {type(given).__name__}, expected a Schedule or a preset")
    return preset(given, steps)
