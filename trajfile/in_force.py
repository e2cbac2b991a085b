"""Learning rates that were recorded at steps which a selection leaves out, and are in force in it.

A learning rate holds until another is recorded. Where one was recorded only every so often, or
once at the start, a selection of steps would lose it. So it stands, in the selection, at the first
step that it has of those it is in force at.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Container
from trajfile.schema import ABSENT_BITS
from trajfile.selection import StepSlice

_RATE = "learning_rate"

#: Of a scalar: steps, int64, shape (n,), and what it is there, bits of float64, shape (n,).
Series = tuple[NDArray[np.int64], NDArray[np.uint64]]


def in_force(container: Container, steps: StepSlice) -> dict[str, Series]:
    """The learning rates that a selection takes over from steps which it leaves out.

    Args:
        container: The whole.
        steps: Which steps are selected.

    Returns:
        For ``learning_rate`` and ``learning_rate/<group>``, if it has any such, the steps that
        are selected and at which the value is new, and the value.
    """
    found: dict[str, Series] = {}
    commits = container.commits()[:, 1]
    selected = np.unique(commits[steps(commits)])
    recorded, values = container.scalars()
    for column, name in enumerate(container.manifest().scalars):
        if name != _RATE and not name.startswith(f"{_RATE}/"):
            continue
        bits = np.ascontiguousarray(values[:, column]).view(np.uint64)
        present = bits != np.uint64(ABSENT_BITS)
        at, rates = recorded[present], bits[present]
        if not len(at):
            continue
        last = np.searchsorted(at, selected, side="right") - 1
        new = np.diff(last, prepend=-1) > 0
        lost = new & (last >= 0) & ~steps(at[np.maximum(last, 0)])
        if lost.any():
            found[name] = selected[lost], rates[last[lost]]
    return found


def with_rates(
    steps: NDArray[np.int64],
    values: NDArray[np.float64],
    names: tuple[str, ...],
    rates: Mapping[str, Series],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Scalars with learning rates added to them.

    Args:
        steps: The step of each row, shape (rows,), increasing.
        values: Shape (rows, names), absent ones `ABSENT_BITS`.
        names: The scalars' names.
        rates: As `in_force` returns them.

    Returns:
        Steps and values, with more rows where steps had none.
    """
    every = np.unique(np.concatenate([steps, *(at for at, _ in rates.values())]))
    bits = np.full((len(every), len(names)), ABSENT_BITS, np.uint64)
    bits[np.searchsorted(every, steps)] = np.ascontiguousarray(values).view(np.uint64)
    for name, (at, rate) in rates.items():
        bits[np.searchsorted(every, at), names.index(name)] = rate
    return every, bits.view(np.float64)
