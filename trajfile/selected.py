"""Some steps and tensors of a trajectory, seen as a trajectory of their own."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import msgspec
import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Commit, Container
from trajfile.errors import UsageError
from trajfile.gather import gather, stretches
from trajfile.in_force import Series, with_rates
from trajfile.schema import NOT_YET, Manifest, StreamSpec, TensorSpec
from trajfile.selection import StepSlice, select_tensors


class Selected:
    """A selection of a container, read-only and nothing copied.

    Commits, rows and scalars at other steps are left out, and so are other tensors, the streams
    and groups that then have none, and nothing else; but learning rates that were recorded at such
    a step and are in force at a selected one stand there. A tensor's first row is the first
    selected one that holds it; one that joined only later is declared, and not recorded.

    Args:
        container: The trajectory.
        params: Globs over tensor names, applied to every stream; None selects all.
        steps: Which steps.
        metadata: What takes the place of its metadata.
        rates: Learning rates of steps left out that are in force in it; see `in_force`.

    Raises:
        UsageError: If a glob matches nothing or no step is recorded.
    """

    def __init__(
        self,
        container: Container,
        params: list[str] | None,
        steps: StepSlice,
        metadata: dict[str, object],
        rates: Mapping[str, Series],
    ):
        self._container = container
        self.kind, self.path, self.uuid = container.kind, container.path, container.uuid
        self.format_version = container.format_version
        source = container.manifest()
        names = [tensor.name for stream in source.streams for tensor in stream.tensors]
        chosen = select_tensors(names, params)
        self._keys = {stream: container.keys(stream) for stream in source.by_name}
        self._rows = {stream: np.flatnonzero(steps(keys[0])) for stream, keys in self._keys.items()}
        commits = container.commits()
        self._commits = commits[steps(commits[:, 1])]
        if len(commits) and not len(self._commits):
            raise UsageError(
                f"steps {steps} select nothing: {container.path} holds steps {commits[0, 1]} to "
                f"{commits[-1, 1]}"
            )
        self._commits[:, 0] = np.arange(len(self._commits))
        self._steps, self._rates = steps, rates
        self._source = source
        streams = (self._table(stream, chosen) for stream in source.streams)
        groups = {
            name: tuple(tensor for tensor in members if tensor in chosen or tensor not in names)
            for name, members in source.groups.items()
        }
        self._manifest = msgspec.structs.replace(
            source,
            streams=tuple(stream for stream in streams if stream is not None),
            groups={
                name: members
                for name, members in groups.items()
                if members or not source.groups[name]
            },
            metadata=metadata,
        )

    def manifest(self) -> Manifest:
        """The manifest of the selection."""
        return self._manifest

    def commits(self) -> NDArray[np.int64]:
        """Shape (commits, 3): sequence number, step and wall-clock time in ns since 1970."""
        return self._commits.copy()

    def committed_rows(self, stream: str) -> int:
        """Number of selected rows of a stream."""
        return len(self._rows[stream])

    def keys(self, stream: str) -> tuple[NDArray[np.int64], NDArray[np.int32] | None]:
        """The step of each selected row and, for gradient samples, its sample index."""
        steps, samples = self._keys[stream]
        rows = self._rows[stream]
        return steps[rows], None if samples is None else samples[rows]

    def scalars(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps, shape (rows,), and values, shape (rows, names), at the selected steps."""
        steps, values = self._container.scalars()
        chosen = self._steps(steps)
        steps, values = steps[chosen], np.ascontiguousarray(values[chosen])
        if not self._rates:
            return steps, values
        return with_rates(steps, values, self._source.scalars, self._rates)

    def read(self, stream: str, lane: str, rows: slice, columns: slice, out: Array) -> None:
        """Read a block of the selection; see `trajfile.containers.base.Container`."""
        held = self._source.by_name[stream]
        places = stretches(self._manifest.by_name[stream], held, lane)
        chosen = self._rows[stream][rows]
        cuts = [0, *(np.flatnonzero(np.diff(chosen) != 1) + 1).tolist(), len(chosen)]
        for first, last in pairwise(cuts):
            if first < last:
                block = slice(int(chosen[first]), int(chosen[last - 1]) + 1)
                target = out[first:last]
                gather(self._container, stream, lane, block, columns, places, target)

    def chunk_columns(self, stream: str, lane: str) -> int:
        """Width in columns of the unit in which the lane is stored."""
        return self._container.chunk_columns(stream, lane)

    def stored_bytes(self) -> int:
        """Size of the whole on disk in bytes."""
        return self._container.stored_bytes()

    def append(self, commit: Commit) -> None:
        """A selection takes nothing.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"a selection of {self.path} cannot be appended to")

    def close(self) -> None:
        """Close the container."""
        self._container.close()

    def _table(self, stream: StreamSpec, chosen: frozenset[str]) -> StreamSpec | None:
        """The stream's table of the selection; None if it has lost all its tensors."""
        rows = self._rows[stream.name]
        kept = []
        for tensor in stream.tensors:
            if tensor.name in chosen:
                first = int(np.searchsorted(rows, tensor.first_row))
                settled = first < len(rows) or tensor.first_row == 0
                kept.append(
                    msgspec.structs.replace(tensor, first_row=first if settled else NOT_YET)
                )
        return laid_out(stream.name, kept) if kept or not stream.tensors else None


def laid_out(name: str, tensors: list[TensorSpec]) -> StreamSpec:
    """A table with its tensors in the order in which they joined, one after another in their lanes.

    Args:
        name: The stream's name.
        tensors: Its tensors; their offsets do not matter.

    Returns:
        The stream.
    """
    ends: dict[str, int] = {}
    placed = []
    for tensor in sorted(tensors, key=lambda tensor: tensor.first_row):
        offset = ends.get(tensor.dtype, 0)
        ends[tensor.dtype] = offset + tensor.size
        placed.append(msgspec.structs.replace(tensor, offset=offset))
    return StreamSpec(name, tuple(placed))
