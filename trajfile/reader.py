"""Opening a trajectory: names, steps and scalars at once, tensors when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self, overload

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Container
from trajfile.errors import Damaged, UsageError
from trajfile.importers import CHECKPOINTS, check_trust, open_any
from trajfile.lazy import StreamView
from trajfile.paths import run_path
from trajfile.schema import ABSENT_BITS, Manifest, TensorSpec

if TYPE_CHECKING:
    import xarray

    from trajfile.engine.header import Header
    from trajfile.selection import StepSlice
    from trajfile.untrusted import Limits

ScalarSeries = tuple[NDArray[np.int64], NDArray[np.float64]]


def open_trajectory(
    path: str | os.PathLike[str], *, untrusted: bool | Limits = False, trust: bool = False
) -> Trajectory:
    """Open a recorded trajectory, also while another process appends to it, or checkpoints.

    Args:
        path: An HDF5 file, a Zarr folder, or a folder of checkpoints (spec/checkpoints.md); or
            the address of a Zarr folder or of safetensors in a store, ``s3://bucket/run.zarr``.
        untrusted: Whether to read it in a process apart, with limits on its memory and time.
            Everything is there then but the tensors.
        trust: Whether to run the code that files of ``torch.save`` name, where they cannot be read
            wholly without; each such file is named on stderr. Only for files you made yourself.

    Returns:
        What had been committed by now.

    Raises:
        UsageError: If the path is empty, or the address of another machine, or the file is both
            trusted and untrusted.
        NotATrajectory: If there is nothing, or some other program's file.
        UnsupportedVersion: If it needs a newer version of this program.
        Damaged: If its bytes contradict its checksums.
        Unsafe: If it holds a construct that must not be followed.
    """
    check_trust(untrusted=untrusted, trust=trust)
    path = run_path(path)
    if untrusted and (isinstance(path, str) or path.exists()):
        from trajfile.untrusted import ask, limits, outlined

        outline = ask("open", path, limits(untrusted)).outline
        return Trajectory(outlined(outline, path))
    container = open_any(path, trust=trust)
    try:
        return Trajectory(container)
    except BaseException:
        container.close()
        raise


@contextmanager
def opened(
    source: str | os.PathLike[str] | Trajectory, *, trust: bool = False
) -> Iterator[Trajectory]:
    """A run given by its path or as opened already.

    Args:
        source: Either.
        trust: Whether to run code that checkpoints name, of a path; see `open_trajectory`.

    Yields:
        The run; closed afterwards if it was opened here.
    """
    if isinstance(source, Trajectory):
        yield source
        return
    with open_trajectory(source, trust=trust) as trajectory:
        yield trajectory


class Trajectory:
    """A recorded trajectory as of its last commit when it was opened.

    Attributes:
        container: Where it is stored.
        manifest: What it holds.
    """

    def __init__(self, container: Container):
        self.container = container
        self.manifest: Manifest = container.manifest()
        self._keys = {name: container.keys(name) for name in self.manifest.by_name}
        for name, (steps, samples) in self._keys.items():
            # All that is looked up by step rests on their order.
            rises = np.diff(steps, prepend=-1) > 0
            within = np.zeros(len(steps), np.bool_)
            if samples is not None:
                within = (np.diff(steps, prepend=-1) == 0) & (np.diff(samples, prepend=-1) == 1)
            if not (rises | within).all():
                raise Damaged(
                    f"{self.path}, /streams/{name}/step: steps do not increase from row to row; "
                    "restore it from a copy",
                    path=self.path,
                    location=f"/streams/{name}/step",
                    rule="STR-008",
                )

    @property
    def path(self) -> str:
        """Where it lies."""
        return self.container.path

    @property
    def uuid(self) -> str:
        """Its identity, given at creation and kept by copies."""
        return self.container.uuid

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the declared streams; one without rows has no steps."""
        return tuple(self.manifest.by_name)

    def steps(self, stream: str) -> NDArray[np.int64]:
        """The step of each row of a stream.

        Args:
            stream: Its name.

        Returns:
            int64, increasing; in gradient_samples a step repeats once per sample.

        Raises:
            UsageError: If there is no such stream.
        """
        return self[stream].steps

    def tensors(self, stream: str) -> dict[str, TensorSpec]:
        """The tensors of a stream, in recorded order.

        Args:
            stream: Its name.

        Returns:
            Name, shape, dtype and place of each.

        Raises:
            UsageError: If there is no such stream.
        """
        return dict(self[stream].spec.by_name)

    def __getitem__(self, stream: str) -> StreamView:
        """A stream, nothing of it read yet.

        Args:
            stream: Its name.

        Returns:
            Its tensors by name.

        Raises:
            UsageError: If there is no such stream.
        """
        if stream not in self._keys:
            raise UsageError(
                f"{self.path} has no stream {stream!r}; it has {', '.join(self.streams) or 'none'}"
            )
        return StreamView(self.container, self.manifest.by_name[stream], *self._keys[stream])

    def __contains__(self, stream: object) -> bool:
        """Whether a stream is declared."""
        return stream in self._keys

    def __iter__(self) -> Iterator[str]:
        """The streams' names."""
        return iter(self.streams)

    @cached_property
    def scalars(self) -> Mapping[str, ScalarSeries]:
        """Each scalar's (steps, values) where it was recorded, int64 and float64.

        A recorded NaN is a value; an absent one is left out.
        """
        steps, values = self.container.scalars()
        series = {}
        for column, name in enumerate(self.manifest.scalars):
            recorded = np.ascontiguousarray(values[:, column])
            present = recorded.view(np.uint64) != np.uint64(ABSENT_BITS)
            series[name] = (steps[present], recorded[present])
        return series

    def row_index(self, stream: str, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of a stream at the given steps.

        Args:
            stream: Its name.
            steps: Recorded steps, int64, shape (n,).

        Returns:
            int64: one row for each step, in gradient_samples every sample's row.

        Raises:
            UsageError: If there is no such stream or a step is not recorded in it.
        """
        recorded = self.steps(stream)
        first = np.searchsorted(recorded, steps, side="left")
        last = np.searchsorted(recorded, steps, side="right")
        if (first == last).any():
            absent = np.asarray(steps)[first == last][0]
            raise UsageError(f"{self.path}: {stream} has no row at step {absent}")
        if not self.manifest.by_name[stream].sampled:
            return first.astype(np.int64)
        runs = [np.arange(a, b) for a, b in zip(first, last, strict=True)]
        return np.concatenate([np.empty(0, np.int64), *runs])

    def header(
        self, params: Sequence[str] | str | None = None, steps: slice | str | None = None
    ) -> Header:
        """What is known of a selected part of the run without reading a tensor.

        Args:
            params: Globs over tensor names, applied to every stream; None selects all.
            steps: Which steps, of every stream and scalar: a slice of step values or its text
                ``a:b:s``, a <= step < b and (step - a) divisible by s. None selects all.

        Returns:
            Steps, tensors, scalars and provenance.

        Raises:
            UsageError: If a glob matches no tensor, or the steps select none that is recorded.
        """
        from trajfile.engine.header import Header
        from trajfile.selection import StepSlice, select_tensors

        streams = self.manifest.by_name
        names = [tensor.name for spec in streams.values() for tensor in spec.tensors]
        tensors = select_tensors(names, params)
        chosen = StepSlice.parse(steps)
        picked = {name: keys[0][chosen(keys[0])] for name, keys in self._keys.items()}
        scalars = {name: (at[chosen(at)], v[chosen(at)]) for name, (at, v) in self.scalars.items()}
        self._check_not_empty(chosen, picked, scalars)
        groups = {
            group: tuple(name for name in members if name in tensors)
            for group, members in self.manifest.groups.items()
        }
        return Header(
            steps=picked,
            tensors={
                name: {
                    t.name: t
                    for t in spec.tensors
                    if t.name in tensors and t.first_row < len(self._keys[name][0])
                }
                for name, spec in streams.items()
            },
            scalars=scalars,
            optimizer=self.manifest.optimizer,
            groups=groups,
            gradient=self.manifest.gradient,
            metadata=self.manifest.metadata,
            checkpoints=self.container.kind.endswith(CHECKPOINTS),
            learning_rate=self.scalars.get("learning_rate"),
            joined={
                name: {
                    t.name: int(self._keys[name][0][t.first_row])
                    for t in spec.tensors
                    if 0 < t.first_row < len(self._keys[name][0])
                }
                for name, spec in streams.items()
            },
        )

    @overload
    def to_xarray(self) -> xarray.DataTree: ...

    @overload
    def to_xarray(self, stream: str) -> xarray.Dataset: ...

    def to_xarray(self, stream: str | None = None) -> xarray.DataTree | xarray.Dataset:
        """The run, or one stream of it, for xarray; tensors are read when they are indexed.

        A tensor has the dimension ``step`` and, for its own axes, ``<tensor>_dim_<i>``. Rows of
        gradient_samples lie along ``row``, with coordinates ``step`` and ``sample``. A tensor
        that joined at a later step k lies along ``step_from_<k>`` (``row_from_<k>``) instead,
        because before that it has no values; one declared but never recorded is left out. Dtypes
        stay as recorded. Scalars are NaN also where they were not recorded. Close the trajectory
        only once all that is wanted has been read, or call ``load()`` first.

        Args:
            stream: A stream's name; None for the whole run.

        Returns:
            A Dataset of the stream's tensors; or a DataTree with a node for each stream and
            ``scalars``, in which a slash in a tensor's name makes a node. What is known of the
            run stands in its attributes, objects as JSON.

        Raises:
            UsageError: If xarray is not installed, there is no such stream, or a tensor's name is
                also a folder of others.
        """
        from trajfile.labelled import run_tree, stream_dataset

        if stream is not None:
            return stream_dataset(self[stream])
        known = {
            "path": self.path,
            "uuid": self.uuid,
            "optimizer": self.manifest.optimizer,
            "groups": self.manifest.groups,
            "gradient": self.manifest.gradient,
            "metadata": self.manifest.metadata,
        }
        return run_tree({name: self[name] for name in self.streams}, self.scalars, known)

    def close(self) -> None:
        """Release the file; tensors can no longer be read."""
        self.container.close()

    def __enter__(self) -> Self:
        """The trajectory itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def __repr__(self) -> str:
        """Path, container and rows of each stream."""
        rows = ", ".join(f"{name}: {len(keys[0])}" for name, keys in self._keys.items())
        return f"<trajfile.Trajectory {self.path} ({self.container.kind}; rows {rows or 'none'})>"

    def _check_not_empty(
        self,
        chosen: StepSlice,
        picked: Mapping[str, NDArray[np.int64]],
        scalars: Mapping[str, ScalarSeries],
    ) -> None:
        # Scalars alone are no answer to a selection as long as the run holds any tensor's row.
        recorded = [keys[0] for keys in self._keys.values() if len(keys[0])]
        left = list(picked.values())
        if not recorded:
            recorded = [at for at, _ in self.scalars.values() if len(at)]
            left = [at for at, _ in scalars.values()]
        if recorded and not any(len(steps) for steps in left):
            first = min(int(steps[0]) for steps in recorded)
            last = max(int(steps[-1]) for steps in recorded)
            raise UsageError(
                f"steps {chosen} select nothing: {self.path} holds steps {first} to {last}"
            )
