"""What every container offers: committed rows, read and appended bit for bit.

A container knows rows, lanes and columns. It does not know tensors' meaning, cadences or metrics.
HDF5 and Zarr share one commit protocol (`trajfile.containers.journal`) over two physical stores;
the in-memory container is the reference the others are tested against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.scattered import Scattered
from trajfile.containers.stored import Stored
from trajfile.errors import UsageError
from trajfile.schema import Manifest

Array = NDArray[np.generic]
#: Rows as they are given to be written.
Given = Array | Scattered


@dataclass(frozen=True)
class Rows:
    """What one commit adds to one stream.

    Attributes:
        lanes: For each lane an array of shape (rows, columns of the lane), C-contiguous, in the
            lane's dtype (see `trajfile.dtypes.numpy_dtype`), or the same `Scattered`.
        samples: For ``gradient_samples``, the sample index of each row, int32; otherwise None and
            there is exactly one row.
    """

    lanes: Mapping[str, Given]
    samples: NDArray[np.int32] | None = None


@dataclass(frozen=True)
class Commit:
    """One append: everything recorded at one step, made visible all at once.

    Attributes:
        step: The optimizer-step count.
        rows: New rows by stream; streams absent here gain none.
        scalars: Values by scalar name. An absent name leaves a hole in its column.
        manifest: A new revision, when tensors or scalars join with this commit; otherwise None.
        wall_ns: When it was first made, nanoseconds since 1970, if it is a copy; otherwise None.
    """

    step: int
    rows: Mapping[str, Rows] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    manifest: Manifest | None = None
    wall_ns: int | None = None


class Container(Protocol):
    """One trajectory, however it is stored.

    Every read sees exactly what the last valid commit names, also while another process appends.
    """

    kind: str
    """``hdf5``, ``zarr``, ``memory`` or an importer's name."""
    path: str
    """Where it lies, for messages and reports."""
    uuid: str
    """Identity given at creation, kept by copies."""
    format_version: tuple[int, int]

    def manifest(self) -> Manifest:
        """The revision in force at the last valid commit."""
        ...

    def commits(self) -> NDArray[np.int64]:
        """Shape (commits, 3): number from 0, step and wall-clock time in ns since 1970.

        Those that a rewind has taken back are not among them.
        """
        ...

    def committed_rows(self, stream: str) -> int:
        """Number of committed rows of a stream."""
        ...

    def keys(self, stream: str) -> tuple[NDArray[np.int64], NDArray[np.int32] | None]:
        """The step of each committed row and, for gradient samples, its sample index."""
        ...

    def scalars(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps, shape (rows,), and values, shape (rows, names); NaN where absent."""
        ...

    def read(self, stream: str, lane: str, rows: slice, columns: slice, out: Array) -> None:
        """Read a block of committed rows, bit-exact and with checksums verified.

        Args:
            stream: The stream.
            lane: The lane, named by its dtype.
            rows: Contiguous rows; 0 <= start <= stop <= committed rows, step 1 or None.
            columns: Contiguous columns; within the lane's columns.
            out: C-contiguous array of shape (rows, columns) in the lane's dtype, filled here.
                Columns of a tensor in rows before its ``first_row`` come back as zero bits.

        Raises:
            Damaged: If a checksum fails or a committed chunk is missing.
        """
        ...

    def chunk_columns(self, stream: str, lane: str) -> int:
        """Width in columns of the unit in which the lane is stored and verified."""
        ...

    def stored_bytes(self) -> int:
        """Size on disk in bytes (in memory: of the arrays)."""
        ...

    def append(self, commit: Commit) -> None:
        """Write the rows, then make them visible by one commit record.

        Raises:
            ResourceError: If the system refuses to write; committed steps stay readable, and the
                next try starts from them.
        """
        ...

    def close(self) -> None:
        """Release files; for a writable container, leave it cleanly closed."""
        ...


@runtime_checkable
class Plain(Protocol):
    """A container of which blocks may lie in a file as they are, to be read piece by piece."""

    def stored(
        self, stream: str, lane: str, rows: NDArray[np.int64], columns: slice
    ) -> Stored | None:
        """Where the chunks of a block lie; None if `read` is to be used."""
        ...


def check_block(
    where: str, shape: tuple[int, int], rows: slice, columns: slice, out: Array
) -> None:
    """Check that a block lies within a lane.

    Args:
        where: Stream and lane, for the message.
        shape: The lane's committed rows and its columns.
        rows: Rows of the block.
        columns: Its columns.
        out: What it is to be read into.

    Raises:
        UsageError: If it does not, or `out` has another shape.
    """
    inside = (
        0 <= rows.start <= rows.stop <= shape[0]
        and 0 <= columns.start <= columns.stop <= shape[1]
        and out.shape == (rows.stop - rows.start, columns.stop - columns.start)
    )
    if not inside:
        raise UsageError(
            f"{where} holds {shape[0]} rows of {shape[1]} columns: asked for rows "
            f"{rows.start}:{rows.stop} and columns {columns.start}:{columns.stop} into an array "
            f"of shape {out.shape}"
        )
