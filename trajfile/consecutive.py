"""Several trajectories that follow one another, seen as the one run that they recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Commit, Container
from trajfile.errors import UsageError
from trajfile.gather import gather, stretches
from trajfile.provenance import extend_statement
from trajfile.schema import ABSENT_BITS, NOT_YET, Manifest, StreamSpec, TensorSpec
from trajfile.selected import laid_out


class Consecutive:
    """Parts of one run, in the order of their steps; read-only and nothing copied.

    A part may record what those before it did not, as if it had joined there. It must hold every
    tensor that was recorded before in any of its streams that has rows, and must not contradict
    what the others state of the optimizer, the groups and the gradients. Metadata of later parts
    add to those of earlier ones and replace them key by key.

    Args:
        parts: Two or more trajectories, in any order.

    Raises:
        UsageError: If their steps overlap, or they cannot be of one run.
    """

    kind = "parts"

    def __init__(self, parts: Sequence[Container]):
        self._parts = sorted(
            (part for part in parts), key=lambda part: int(part.commits()[:1, 1].sum())
        )
        first = self._parts[0]
        self.path, self.uuid, self.format_version = first.path, first.uuid, first.format_version
        _check_order(self._parts)
        self._manifest = merged(self._parts)
        names = list(self._manifest.by_name)
        counts = {
            name: [
                part.committed_rows(name) if name in part.manifest().by_name else 0
                for part in self._parts
            ]
            for name in names
        }
        self._starts = {name: np.cumsum([0, *counts[name]]) for name in names}

    def manifest(self) -> Manifest:
        """The manifest of all parts together."""
        return self._manifest

    def commits(self) -> NDArray[np.int64]:
        """Shape (commits, 3): sequence number, step and wall-clock time in ns since 1970."""
        commits = np.concatenate([part.commits() for part in self._parts])
        commits[:, 0] = np.arange(len(commits))
        return commits

    def committed_rows(self, stream: str) -> int:
        """Number of rows of a stream in all parts."""
        return int(self._starts[stream][-1])

    def keys(self, stream: str) -> tuple[NDArray[np.int64], NDArray[np.int32] | None]:
        """The step of each row and, for gradient samples, its sample index."""
        held = [p.keys(stream) for p in self._parts if stream in p.manifest().by_name]
        steps = np.concatenate([steps for steps, _ in held])
        if not self._manifest.by_name[stream].sampled:
            return steps, None
        return steps, np.concatenate([samples for _, samples in held if samples is not None])

    def scalars(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps, shape (rows,), and values, shape (rows, names); absent ones `ABSENT_BITS`."""
        names = self._manifest.scalars
        every: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        known = [np.empty((0, len(names)), np.uint64)]
        for part in self._parts:
            steps, values = part.scalars()
            bits = np.full((len(steps), len(names)), ABSENT_BITS, np.uint64)
            for column, name in enumerate(part.manifest().scalars):
                bits[:, names.index(name)] = np.ascontiguousarray(values[:, column]).view(np.uint64)
            every.append(steps)
            known.append(bits)
        return np.concatenate(every), np.concatenate(known).view(np.float64)

    def read(self, stream: str, lane: str, rows: slice, columns: slice, out: Array) -> None:
        """Read a block of rows; see `trajfile.containers.base.Container`."""
        wanted = self._manifest.by_name[stream]
        starts = self._starts[stream]
        for number, part in enumerate(self._parts):
            start, stop = max(rows.start, starts[number]), min(rows.stop, starts[number + 1])
            if start < stop:
                block = slice(int(start - starts[number]), int(stop - starts[number]))
                places = stretches(wanted, part.manifest().by_name.get(stream), lane)
                target = out[start - rows.start : stop - rows.start]
                gather(part, stream, lane, block, columns, places, target)

    def chunk_columns(self, stream: str, lane: str) -> int:
        """Width in columns of the unit in which the first part that has the lane stores it."""
        for part in self._parts:
            held = part.manifest().by_name.get(stream)
            if held is not None and lane in held.lanes:
                return part.chunk_columns(stream, lane)
        raise KeyError(lane)

    def stored_bytes(self) -> int:
        """Size of all parts on disk in bytes."""
        return sum(part.stored_bytes() for part in self._parts)

    def append(self, commit: Commit) -> None:
        """Parts seen as one take nothing.

        Raises:
            UsageError: Always.
        """
        raise UsageError("several parts seen as one cannot be appended to")

    def close(self) -> None:
        """Close the parts."""
        for part in self._parts:
            part.close()


def merged(parts: Sequence[Container]) -> Manifest:
    """The manifest of consecutive parts.

    Args:
        parts: The parts, in order.

    Returns:
        All streams, tensors and scalars, in the order in which they first appear.

    Raises:
        UsageError: If the parts cannot be of one run.
    """
    whole = parts[0].manifest()
    rows = {name: parts[0].committed_rows(name) for name in whole.by_name}
    for part in parts[1:]:
        found = part.manifest()
        tables = dict(whole.by_name)
        for stream in found.streams:
            before = tables.get(stream.name, StreamSpec(stream.name, ()))
            offset, added = rows.get(stream.name, 0), part.committed_rows(stream.name)
            tables[stream.name] = _joined(before, stream, offset, added, part.path)
            rows[stream.name] = offset + added
        stated: dict[str, Any] = {}
        for what in ("optimizer", "groups", "gradient"):
            try:
                stated[what] = extend_statement(getattr(whole, what), getattr(found, what), what)
            except UsageError as error:
                raise UsageError(f"{part.path} is no later part of that run: {error}") from error
        whole = msgspec.structs.replace(
            whole,
            streams=tuple(tables.values()),
            scalars=tuple(dict.fromkeys((*whole.scalars, *found.scalars))),
            metadata={**whole.metadata, **found.metadata},
            **stated,
        )
    return whole


def _joined(before: StreamSpec, part: StreamSpec, rows: int, added: int, path: str) -> StreamSpec:
    """A stream's table once a part with ``added`` rows follows ``rows`` rows."""
    tensors: dict[str, TensorSpec] = dict(before.by_name)
    for tensor in part.tensors:
        known = tensors.get(tensor.name)
        first = NOT_YET if tensor.first_row == NOT_YET else rows + tensor.first_row
        if known is not None and (known.shape, known.dtype) != (tensor.shape, tensor.dtype):
            raise UsageError(
                f"{path} is no later part of that run: its tensor {tensor.name!r} of {part.name} "
                f"is {tensor.dtype} of shape {tensor.shape}, before it was {known.dtype} of shape "
                f"{known.shape}"
            )
        if known is None or known.first_row >= rows:
            tensors[tensor.name] = msgspec.structs.replace(tensor, first_row=first)
    for name, known in before.by_name.items():
        now = part.by_name.get(name)
        if added and known.first_row < rows and (now is None or now.first_row):
            raise UsageError(
                f"{path} is no later part of that run: {part.name} there lacks {name!r} "
                f"{'from the start' if now is not None else 'altogether'}; convert the files one "
                "by one"
            )
    return laid_out(part.name, list(tensors.values()))


def _check_order(parts: Sequence[Container]) -> None:
    """Refuse parts that overlap: which of two rows of a step is the run's, nobody can tell."""
    previous: tuple[str, int] | None = None
    for part in parts:
        steps = part.commits()[:, 1]
        if not len(steps):
            continue
        if previous is not None and steps[0] <= previous[1]:
            raise UsageError(
                f"{part.path} starts at step {steps[0]}, but {previous[0]} goes on to step "
                f"{previous[1]}: parts of a run must not overlap; cut one first, as in `trajfile "
                f"convert {previous[0]} --steps :{steps[0]} -o cut.h5`"
            )
        previous = (part.path, int(steps[-1]))
