"""Gradients recomputed where a run recorded none: the run as it would be with them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import IO

import msgspec
import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Commit, Container
from trajfile.dtypes import ITEM_SIZES, bits_of
from trajfile.engine.header import Header
from trajfile.reader import Trajectory
from trajfile.replay.factory import UserLoss
from trajfile.replay.objective import Objective
from trajfile.replay.point import differentiable, tensors_at, whole_steps
from trajfile.schema import GRADIENTS, Manifest, StreamSpec, TensorSpec

_CHUNK_COLUMNS = 262144

#: What the header says of them: of the whole loss, and of no update that was made. What the
#: updates were made of is kept beside, as ``trained_on``.
PROVENANCE = {"stage": "replayed", "source": "full_batch"}


@contextmanager
def with_gradients(
    loss: UserLoss, trajectory: Trajectory, header: Header, *, float64: bool
) -> Iterator[Trajectory]:
    """A run with a stream of gradients of the user's loss at each selected snapshot.

    They are kept in a temporary file for as long as the context lasts.

    Args:
        loss: The user's loss.
        trajectory: The run, without gradients.
        header: Its selected part: at which steps, and by which tensors to differentiate.
        float64: Whether the loss is given float64 tensors.

    Yields:
        The run with them. Gradients are float32, or float64 for tensors given in float64.

    Raises:
        UsageError: If the user's code fails, or does not go with the run.
        OSError: If the disk is full.
    """
    selected = differentiable(header, loss.name)
    steps = whole_steps(trajectory, header)
    specs, ends = [], {"float32": 0, "float64": 0}
    for name, spec in selected.items():
        lane = "float64" if float64 or spec.dtype == "float64" else "float32"
        specs.append(TensorSpec(name, spec.shape, lane, ends[lane]))
        ends[lane] += spec.size
    stream = StreamSpec(GRADIENTS, tuple(specs))
    with tempfile.TemporaryFile(prefix="trajfile-gradients-") as file:
        for step in steps:
            tensors = tensors_at(trajectory, int(step), loss.device, float64=float64)
            gradient = Objective(loss, tensors, list(selected)).gradient.cpu().numpy()
            parts = np.split(gradient, np.cumsum([spec.size for spec in specs])[:-1])
            for lane in stream.lanes:
                held = [p for p, spec in zip(parts, specs, strict=True) if spec.dtype == lane]
                file.write(np.concatenate(held).astype(f"<f{ITEM_SIZES[lane]}").tobytes())
        yield Trajectory(_WithGradients(trajectory.container, stream, steps, file))


class _WithGradients:
    """A container and one more stream, which lies row after row in a file, lanes in order."""

    def __init__(
        self, inner: Container, stream: StreamSpec, steps: NDArray[np.int64], file: IO[bytes]
    ) -> None:
        self._inner, self._stream, self._steps, self._file = inner, stream, steps, file
        self._lock = Lock()
        self.kind, self.path, self.uuid = inner.kind, inner.path, inner.uuid
        self.format_version = inner.format_version

    def manifest(self) -> Manifest:
        """The manifest, with the stream in it."""
        inner = self._inner.manifest()
        others = tuple(stream for stream in inner.streams if stream.name != GRADIENTS)
        gradient = {**inner.gradient, **PROVENANCE, "trained_on": inner.gradient.get("source")}
        return msgspec.structs.replace(inner, streams=(*others, self._stream), gradient=gradient)

    def commits(self) -> NDArray[np.int64]:
        """As recorded."""
        return self._inner.commits()

    def committed_rows(self, stream: str) -> int:
        """Number of rows of a stream."""
        return len(self._steps) if stream == GRADIENTS else self._inner.committed_rows(stream)

    def keys(self, stream: str) -> tuple[NDArray[np.int64], NDArray[np.int32] | None]:
        """The step of each row."""
        return (self._steps, None) if stream == GRADIENTS else self._inner.keys(stream)

    def scalars(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """As recorded."""
        return self._inner.scalars()

    def read(self, stream: str, lane: str, rows: slice, columns: slice, out: Array) -> None:
        """Read a block of rows."""
        if stream != GRADIENTS:
            self._inner.read(stream, lane, rows, columns, out)
            return
        lanes = self._stream.lanes
        before = list(lanes)[: list(lanes).index(lane)]
        start = sum(ITEM_SIZES[other] * lanes[other] for other in before)
        start += ITEM_SIZES[lane] * columns.start
        with self._lock:
            for row, target in zip(range(rows.start, rows.stop), bits_of(out), strict=True):
                self._file.seek(row * self._stream.row_bytes + start)
                target[:] = np.frombuffer(self._file.read(target.nbytes), target.dtype)

    def chunk_columns(self, stream: str, lane: str) -> int:
        """Width of the unit in which a lane is read; any serves where rows lie in one piece."""
        if stream != GRADIENTS:
            return self._inner.chunk_columns(stream, lane)
        return min(self._stream.lanes[lane], _CHUNK_COLUMNS)

    def stored_bytes(self) -> int:
        """Size on disk, as recorded."""
        return self._inner.stored_bytes()

    def append(self, commit: Commit) -> None:
        """Pass on; the stream beside takes no rows."""
        self._inner.append(commit)

    def close(self) -> None:
        """Leave the run open, which is another's."""
