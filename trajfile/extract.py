"""Tensors at selected steps, read in pieces on their way to another file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Container
from trajfile.containers.pieces import pieces
from trajfile.dtypes import EXTENDED, bits_dtype, numpy_dtype
from trajfile.errors import UsageError
from trajfile.reader import Trajectory
from trajfile.schema import TensorSpec
from trajfile.selection import StepSlice, select_tensors


@dataclass(frozen=True, eq=False)
class Extract:
    """One tensor at the selected steps, not read yet.

    Attributes:
        container: Where it lies.
        stream: Its stream.
        spec: The tensor.
        rows: The stream's rows, increasing, int64; none before the tensor joined.
        steps: The step of each row, int64.
        samples: In gradient_samples the sample index of each row, int32; otherwise None.
    """

    container: Container
    stream: str
    spec: TensorSpec
    rows: NDArray[np.int64]
    steps: NDArray[np.int64]
    samples: NDArray[np.int32] | None

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.spec.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first, then the tensor's own shape."""
        return (len(self.rows), *self.spec.shape)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The recorded dtype, NumPy's or ml_dtypes'."""
        return numpy_dtype(self.spec.dtype)

    @property
    def as_bits(self) -> bool:
        """Whether NumPy lacks the dtype."""
        return self.spec.dtype in EXTENDED

    @property
    def bits(self) -> np.dtype[np.generic]:
        """The unsigned integers of the dtype's size."""
        return bits_dtype(self.spec.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return len(self.rows) * self.spec.size * self.dtype.itemsize

    def parts(self, start: int = 0, stop: int | None = None) -> Iterator[Array]:
        """Read the elements in row-major order, in pieces of bounded size.

        Args:
            start: The first of the selected rows to read.
            stop: The one after the last; None for all.

        Yields:
            Arrays of shape (rows, columns): whole rows, or parts of one where it is large.
        """
        rows = self.rows[start:stop]
        unit = self.container.chunk_columns(self.stream, self.spec.dtype)
        cuts = np.flatnonzero(np.diff(rows) != 1) + 1
        for first, last in pairwise([0, *cuts.tolist(), len(rows)]):
            if first == last or not self.spec.size:
                continue
            block = slice(int(rows[first]), int(rows[last - 1]) + 1)
            for piece, columns in pieces(block, self.spec.columns, unit, self.dtype.itemsize):
                shape = piece.stop - piece.start, columns.stop - columns.start
                out = np.empty(shape, self.dtype)
                self.container.read(self.stream, self.spec.dtype, piece, columns, out)
                yield out


def extract(
    trajectory: Trajectory, tensors: list[str], stream: str, steps: slice | str | None
) -> list[Extract]:
    """The tensors that names and globs select, at the selected steps.

    Args:
        trajectory: The run.
        tensors: Names, or globs over names.
        stream: The stream.
        steps: A slice of step values or its text; None for all.

    Returns:
        The tensors in recorded order.

    Raises:
        UsageError: If there is no such stream or tensor, or a tensor has no row at these steps.
    """
    view = trajectory[stream]
    # A name is taken as it stands, even where it would also be a pattern: w[0].
    exact = {name for name in tensors if name in view}
    globs = [name for name in tensors if name not in exact]
    chosen = exact | (select_tensors(view, globs) if globs else set())
    selected = StepSlice.parse(steps)
    found = []
    for name, tensor in view.items():
        if name not in chosen:
            continue
        local = np.flatnonzero(selected(tensor.steps))
        if not len(local):
            held = f"steps {tensor.steps[0]} to {tensor.steps[-1]}" if len(tensor) else "no rows"
            where = "" if steps is None else f" at steps {selected}"
            raise UsageError(
                f"{name!r} of {stream} has no row{where}: {trajectory.path} holds {held} of it"
            )
        samples = None if tensor.samples is None else tensor.samples[local]
        rows = local + tensor.spec.first_row
        at = tensor.steps[local]
        found.append(Extract(trajectory.container, stream, tensor.spec, rows, at, samples))
    return found


def labels(extracts: list[Extract]) -> dict[str, Array]:
    """The arrays that say which step each row is, by the name under which they are stored.

    Args:
        extracts: The tensors, at least one.

    Returns:
        ``step`` and, in gradient_samples, ``sample``. A tensor that joined later and so has fewer
        rows than the others has its own, ``<tensor>.step`` and ``<tensor>.sample``.

    Raises:
        UsageError: If a tensor has one of these names.
    """
    longest = max(extracts, key=lambda one: len(one.rows))
    found: dict[str, Array] = {}
    for one in [longest, *extracts]:
        own = "" if len(one.rows) == len(longest.rows) else f"{one.name}."
        found[f"{own}step"] = one.steps
        if one.samples is not None:
            found[f"{own}sample"] = one.samples
    check_names(extracts, found)
    return found


def check_names(extracts: list[Extract], taken: Iterable[str]) -> None:
    """Refuse a tensor whose name the file needs for something else.

    Args:
        extracts: The tensors.
        taken: The other names in the file.

    Raises:
        UsageError: If a tensor has one of these names.
    """
    clash = {one.name for one in extracts}.intersection(taken)
    if clash:
        raise UsageError(
            f"a tensor is called {min(clash)!r}, the name of what tells its neighbours' steps or "
            "dtype in this format: export it to .csv, or read it with traj[stream][tensor]"
        )
