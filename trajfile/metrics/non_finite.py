"""Recorded values that are NaN or infinite: where the first lies, and whether they last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Row
from trajfile.report import Finding

#: Names listed in a sentence before the rest are only counted.
_NAMED = 5


@dataclass(frozen=True)
class NonFinite:
    """Where a stream holds values that are not finite.

    Attributes:
        step: The step of the first such row.
        stream: The stream, or ``loss``.
        rows: How many rows hold such a value.
        of: How many rows there are.
        end: The step from which on every row to the last does; None if the last is finite.
        tensors: The tensors at fault in the first; empty if single tensors were not measured.
    """

    step: int
    stream: str
    rows: int
    of: int
    end: int | None
    tensors: tuple[str, ...] = ()

    @property
    def when(self) -> str:
        """When that is, at the start of a sentence."""
        if self.rows == 1:
            return f"At step {self.step}"
        if self.end == self.step:
            return f"From step {self.step} on"
        until = "" if self.end is None else f", and at all from step {self.end} on"
        return f"At {self.rows} of {self.of} recorded steps, first at step {self.step}{until}"

    @property
    def where(self) -> str:
        """The subject and verb of a sentence that ends in what is wrong."""
        return self.what + (" is" if self.stream == "loss" else " are")

    @property
    def what(self) -> str:
        """The stream with the tensors at fault."""
        return f"the {self.stream}" + (f" of {listed(self.tensors)}" * bool(self.tensors))


def find_non_finite(measured: Measurements, rows: Iterable[Row]) -> list[NonFinite]:
    """The non-finite rows of each stream, and of the loss.

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
        bad = ~np.isfinite(measured.inner(row, row))
        if bad.any():
            k = int(np.argmax(bad))
            specs = header.tensors[row.stream]
            # A tensor that joins later is NaN before it does, and not at fault for it.
            tensors = tuple(
                name
                for name, squares in measured.per_tensor(row, row).items()
                if not np.isfinite(squares[k])
                and (specs[name].first_row == 0 or np.isfinite(squares[:k]).any())
            )
            found.append(_extent(header.timeline_steps(row.timeline), row.stream, bad, tensors))
    if "loss" in header.scalars:
        steps, loss = header.scalars["loss"]
        bad = ~np.isfinite(loss)  # a header holds what was recorded, NaN included
        if bad.any():
            found.append(_extent(steps, "loss", bad))
    return sorted(found, key=lambda entry: entry.step)


def _extent(
    steps: NDArray[np.int64], stream: str, bad: NDArray[np.bool_], tensors: tuple[str, ...] = ()
) -> NonFinite:
    """Which rows of a stream are bad, of which one at least is."""
    good = np.flatnonzero(~bad)
    lasting = int(good[-1]) + 1 if len(good) else 0
    return NonFinite(
        int(steps[np.argmax(bad)]),
        stream,
        int(bad.sum()),
        len(bad),
        int(steps[lasting]) if lasting < len(bad) else None,
        tensors,
    )


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
                "non_finite_rows": [entry.rows for entry in found],
                "rows": [entry.of for entry in found],
                "last_row_finite": [entry.end is None for entry in found],
            },
        )
    ]


def non_finite_sentence(found: Sequence[NonFinite]) -> str | None:
    """What is not finite and when: params that never recover before what came first.

    Args:
        found: As from `find_non_finite`.

    Returns:
        The sentence; None if everything is finite.
    """
    if not found:
        return None
    lost = [entry for entry in found if entry.stream == "params" and entry.end is not None]
    lead = (lost or found)[0]
    before = "" if lead is found[0] else f", after {found[0].what} at step {found[0].step}"
    return f"{lead.when}, {lead.where} not finite{before}."


def listed(names: Sequence[str]) -> str:
    """Some names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
