"""A tensor over time that is read when it is indexed, and no more than is asked for."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from trajfile.containers.base import Array, Container
from trajfile.dtypes import numpy_dtype
from trajfile.errors import UsageError
from trajfile.schema import StreamSpec, TensorSpec


class TensorRows:
    """One tensor at each of its recorded steps: an array of shape (rows, *shape) on disk.

    Row 0 is the first row that holds the tensor, which is not the stream's first if the tensor
    joined later; `steps` says which step each row is. Indexing follows NumPy; the rows that the
    first index asks for are read, and of those only this tensor's columns.

    Attributes:
        spec: The tensor's name, shape, dtype and place.
        steps: The step of each row, int64; a step repeats once per gradient sample.
        samples: In gradient_samples the sample index of each row, int32; otherwise None.
    """

    def __init__(
        self,
        container: Container,
        stream: StreamSpec,
        spec: TensorSpec,
        steps: NDArray[np.int64],
        samples: NDArray[np.int32] | None,
    ):
        self._container = container
        self._stream = stream
        self.spec = spec
        self.steps = steps[spec.first_row :]
        self.samples = None if samples is None else samples[spec.first_row :]

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first, then the tensor's own shape."""
        return (len(self.steps), *self.spec.shape)

    @property
    def ndim(self) -> int:
        """Number of axes, that of the rows included."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The recorded dtype, NumPy's or ml_dtypes'."""
        return numpy_dtype(self.spec.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows once read."""
        return len(self.steps) * self.spec.size * self.dtype.itemsize

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.steps)

    def __getitem__(self, key: Any) -> Any:
        """Read rows.

        Args:
            key: As for a NumPy array of this shape: an int, a slice, an array of ints or bools,
                or a tuple of which the first picks rows.

        Returns:
            A NumPy array in the recorded dtype, or a NumPy scalar.
        """
        first = key[0] if isinstance(key, tuple) and key else key
        rows, local = self._pick(first)
        block = self._read(rows)
        return block[(local, *key[1:])] if isinstance(key, tuple) and key else block[local]

    def at(self, step: int) -> Array:
        """The tensor as recorded at one step.

        Args:
            step: A recorded step.

        Returns:
            Shape (*shape); of gradient samples (L, *shape).

        Raises:
            UsageError: If the tensor was not recorded at that step.
        """
        start, stop = np.searchsorted(self.steps, [step, step + 1])
        if start == stop:
            extent = f"{self.steps[0]} to {self.steps[-1]}" if len(self) else "none"
            raise UsageError(
                f"{self.spec.name!r} of {self._stream.name} was not recorded at step {step} "
                f"({len(self)} rows; steps: {extent})"
            )
        block = self._read(np.arange(start, stop))
        return block if self._stream.sampled else block[0]

    def __iter__(self) -> Iterator[Array]:
        """Read row after row."""
        return (self[row] for row in range(len(self)))

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Read everything.

        Args:
            dtype: Converts, if given.
            copy: False is refused, since reading makes an array.

        Returns:
            Shape (rows, *shape).

        Raises:
            ValueError: If ``copy`` is False.
        """
        if copy is False:
            raise ValueError("a tensor on disk cannot become an array without a copy")
        everything: Array = self[:]
        return everything if dtype is None else everything.astype(dtype, copy=False)

    def __repr__(self) -> str:
        """Name, shape and dtype."""
        return f"<{self._stream.name} {self.spec.name!r} {self.shape} {self.spec.dtype}>"

    def _pick(self, key: Any) -> tuple[NDArray[np.int64], Any]:
        """The rows to read, increasing, and the key that picks the wanted ones among them."""
        count = len(self)
        if isinstance(key, slice):
            rows = np.arange(count)[key]
            return (
                (rows, slice(None))
                if key.step is None or key.step > 0
                else (
                    rows[::-1],
                    slice(None, None, -1),
                )
            )
        if isinstance(key, (list, np.ndarray)):
            index = np.asarray(key)
            if index.dtype == np.bool_ and index.ndim == 1:
                if len(index) != count:
                    raise IndexError(
                        f"the mask has {len(index)} entries, {self.spec.name!r} has {count} rows"
                    )
                return np.flatnonzero(index), slice(None)
            if index.size == 0 or index.dtype.kind in "iu":
                index = self._in_range(index.astype(np.int64, copy=False))
                rows, where = np.unique(index, return_inverse=True)
                return rows, where.reshape(index.shape)
        elif (
            key is not None and not isinstance(key, (bool, np.bool_)) and hasattr(key, "__index__")
        ):
            return self._in_range(np.array([operator.index(key)])), 0
        return np.arange(count), key  # whatever else NumPy takes: an ellipsis, a new axis, ...

    def _in_range(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        count = len(self)
        outside = (index < -count) | (index >= count)
        if outside.any():
            raise IndexError(
                f"row {index[outside][0]} is out of range: {self.spec.name!r} of "
                f"{self._stream.name} has {count} rows"
            )
        return np.where(index < 0, index + count, index)

    def _read(self, rows: NDArray[np.int64]) -> Array:
        block = np.empty((len(rows), self.spec.size), self.dtype)
        if block.size:
            breaks = np.flatnonzero(np.diff(rows) != 1) + 1
            for run in np.split(np.arange(len(rows)), breaks):
                start = int(rows[run[0]]) + self.spec.first_row
                self._container.read(
                    self._stream.name,
                    self.spec.dtype,
                    slice(start, start + len(run)),
                    self.spec.columns,
                    block[run[0] : run[-1] + 1],
                )
        return block.reshape(len(rows), *self.spec.shape)


class StreamView(Mapping[str, TensorRows]):
    """The tensors of one stream, by name.

    Attributes:
        spec: The stream's name and tensors.
        steps: The step of each row of the stream, int64.
        samples: In gradient_samples the sample index of each row, int32; otherwise None.
    """

    def __init__(
        self,
        container: Container,
        spec: StreamSpec,
        steps: NDArray[np.int64],
        samples: NDArray[np.int32] | None,
    ):
        self._container = container
        self.spec = spec
        self.steps = steps
        self.samples = samples

    def __getitem__(self, tensor: str) -> TensorRows:
        """A tensor, not read yet.

        Args:
            tensor: Its name.

        Returns:
            Its rows.

        Raises:
            KeyError: If the stream does not hold it; near misses are named.
        """
        spec = self.spec.by_name.get(tensor)
        if spec is None:
            import difflib  # only where there is something to suggest

            near = difflib.get_close_matches(tensor, self.spec.by_name, n=3, cutoff=0.4)
            hint = f"; near it: {', '.join(near)}" if near else ""
            raise KeyError(f"{self.spec.name} holds no tensor {tensor!r}{hint}")
        return TensorRows(self._container, self.spec, spec, self.steps, self.samples)

    def __iter__(self) -> Iterator[str]:
        """The tensors' names, in recorded order."""
        return iter(self.spec.by_name)

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self.spec.tensors)

    def __repr__(self) -> str:
        """Name, tensors and rows."""
        return f"<stream {self.spec.name!r}: {len(self)} tensors, {len(self.steps)} rows>"
