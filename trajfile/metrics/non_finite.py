"""The first recorded value that is NaN or infinite, and where it lies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Row
from trajfile.report import Finding

#: Names listed in a sentence before the rest are only counted.
_NAMED = 5


@dataclass(frozen=True)
class NonFinite:
    """Where a stream first holds a value that is not finite.

    Attributes:
        step: The step of the row.
        stream: The stream, or ``loss``.
        tensors: The tensors at fault; empty if single tensors were not measured.
    """

    step: int
    stream: str
    tensors: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """The subject and verb of a sentence that ends in what is wrong."""
        if self.stream == "loss":
            return "the loss is"
        return f"the {self.stream}" + (f" of {listed(self.tensors)}" * bool(self.tensors)) + " are"


def find_non_finite(measured: Measurements, rows: Iterable[Row]) -> list[NonFinite]:
    """The first non-finite row of each stream, and of the loss.

    A squared norm is finite if and only if every element is, save for elements whose squares
    overflow the precision of the products.

    Args:
        measured: With the squared norm of each of `rows` declared, per tensor.
        rows: One per stream, of form ``value``.

    Returns:
        Those found, the earliest step first.
    """
    header = measured.header
    found = []
    for row in rows:
        bad = np.flatnonzero(~np.isfinite(measured.inner(row, row)))
        if len(bad):
            k = int(bad[0])
            specs = header.tensors[row.stream]
            # A tensor that joins later is NaN before it does, and not at fault for it.
            tensors = tuple(
                name
                for name, squares in measured.per_tensor(row, row).items()
                if not np.isfinite(squares[k])
                and (specs[name].first_row == 0 or np.isfinite(squares[:k]).any())
            )
            step = int(header.timeline_steps(row.timeline)[k])
            found.append(NonFinite(step, row.stream, tensors))
    if "loss" in header.scalars:
        steps, loss = header.scalars["loss"]
        bad = np.flatnonzero(~np.isfinite(loss))  # a header holds what was recorded, NaN included
        if len(bad):
            found.append(NonFinite(int(steps[bad[0]]), "loss"))
    return sorted(found, key=lambda entry: entry.step)


def non_finite_findings(found: Sequence[NonFinite]) -> list[Finding]:
    """An error for the earliest, with the others as evidence."""
    if not found:
        return []
    first = found[0]
    return [
        Finding(
            "norms.non_finite",
            "error",
            f"At step {first.step} {first.where} NaN or infinite, for the first time in the run.",
            {
                "step": first.step,
                "stream": first.stream,
                "tensors": list(first.tensors),
                "streams": [entry.stream for entry in found],
                "first_steps": [entry.step for entry in found],
            },
        )
    ]


def listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
