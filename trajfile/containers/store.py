"""What the journal asks of a physical store, and the arrays of which a trajectory consists.

Two kinds of array: tables are small, grow at the end and are rewritten in place while their last
chunk fills, so they carry no chunk checksum (a kill amid such a rewrite would take older rows
along) and the commit record checks them instead. Lanes are bulk: each chunk is written once, with
its own checksum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array, Given
from trajfile.containers.stored import Stored
from trajfile.errors import FormatError
from trajfile.schema import ABSENT_BITS, Manifest, StreamSpec

#: A chunk of a lane holds at most this many elements of one row.
MAX_CHUNK_COLUMNS = 262144

_TILE_ROWS, _MAX_TILE_ROWS, _TILE_COLUMNS = 16, 1024, 16384

#: Columns of a chunk of columns yet to come: small ones waste little, large ones read faster.
UNKNOWN_CHUNK = 1024

#: More bytes than this in /manifest are refused.
MAX_MANIFEST_BYTES = 2**30

MANIFEST = "manifest"
COMMITS = "commits"
#: Records in a chunk of it.
COMMIT_ROWS = 128
SCALAR_STEP = "scalars/step"
SCALAR_VALUE = "scalars/value"


@dataclass(frozen=True)
class ArraySpec:
    """One array of the layout.

    Attributes:
        key: Its place, such as ``streams/params/float32``.
        dtype: Its dtype, by the name in the dtype table.
        columns: Number of columns; None if it has one dimension.
        chunk: Shape of a chunk.
        lane: Whether it is a lane rather than a table.
        fill: Bits of an element that was never written.
    """

    key: str
    dtype: str
    columns: int | None
    chunk: tuple[int, ...]
    lane: bool = False
    fill: int = 0


def believable_bytes(stored: int) -> int:
    """How large a table may be of which only so much is stored.

    A table is stored in full but for columns that joined late, so a shape far beyond what is
    stored is a trap for memory.

    Args:
        stored: Bytes on the disk.

    Returns:
        The most bytes it may take in memory.
    """
    return 2**20 + 256 * stored


def stream_key(stream: str, array: str) -> str:
    """Key of a lane, or of ``step`` or ``sample``, of a stream."""
    return f"streams/{stream}/{array}"


def chunk_width(columns: int) -> int:
    """Columns of a chunk: equal parts of the lane, so that the last is not mostly empty.

    Args:
        columns: Columns of the lane at creation.

    Returns:
        ceil(N / ceil(N / 262144)); `UNKNOWN_CHUNK` if there is none yet.
    """
    if not columns:
        return UNKNOWN_CHUNK
    return -(-columns // -(-columns // MAX_CHUNK_COLUMNS))


def tile_shape(columns: int) -> tuple[int, int]:
    """Rows and columns of a chunk of an archive: many rows, for they are alike.

    Args:
        columns: Columns of the lane.

    Returns:
        16 rows of up to 16384 columns, in equal parts; more rows of fewer columns, up to 1024.
    """
    parts = max(1, -(-columns // _TILE_COLUMNS))
    width = max(1, -(-columns // parts))
    return max(_TILE_ROWS, min(_MAX_TILE_ROWS, MAX_CHUNK_COLUMNS // width)), width


def commit_columns(streams: int) -> int:
    """Width of the commit record of a trajectory with that many streams."""
    return 8 + 2 * streams


def layout(manifest: Manifest, *, archive: bool = False) -> list[ArraySpec]:
    """Every array of a trajectory, as created from the first revision of its manifest.

    Args:
        manifest: Any revision; only the numbers of columns differ between them.
        archive: Whether chunks are to span several rows.

    Returns:
        The arrays, in the order of creation.
    """
    width = commit_columns(len(manifest.streams))
    manifest_chunk = min(max(len(manifest.to_line()), 4096), 2**20)
    scalars = len(manifest.scalars)
    specs = [
        ArraySpec(MANIFEST, "uint8", None, (manifest_chunk,)),
        ArraySpec(COMMITS, "uint64", width, (COMMIT_ROWS, width)),
        ArraySpec(SCALAR_STEP, "int64", None, (512,)),
        ArraySpec(SCALAR_VALUE, "float64", scalars, (128, max(scalars, 8)), fill=ABSENT_BITS),
    ]
    for stream in manifest.streams:
        specs += _stream_layout(stream, archive)
    return specs


def _stream_layout(stream: StreamSpec, archive: bool) -> list[ArraySpec]:
    specs = [ArraySpec(stream_key(stream.name, "step"), "int64", None, (512,))]
    if stream.sampled:
        specs.append(ArraySpec(stream_key(stream.name, "sample"), "int32", None, (512,)))
    for lane, columns in stream.lanes.items():
        chunk = tile_shape(columns) if archive else (1, chunk_width(columns))
        specs.append(ArraySpec(stream_key(stream.name, lane), lane, columns, chunk, lane=True))
    return specs


class ArrayStore(Protocol):
    """Named arrays that only grow, somewhere on a disk.

    Methods that meet a full disk raise `ResourceError`; those that meet bytes which contradict
    themselves raise `Damaged`.
    """

    kind: str
    path: str
    uuid: str
    format_version: tuple[int, int]
    archive: bool
    """Whether chunks of lanes span several rows, so that nothing can be appended."""
    fences: bool
    """Whether an earlier writer may still be there, and must be kept from committing."""
    left_by_a_kill: bool
    """Whether it was found as a killed writer leaves it; in Zarr, once `discard` has looked."""

    def expect(self, specs: Iterable[ArraySpec]) -> None:
        """Check that the arrays exist as specified, with at least as many columns."""
        ...

    def columns(self, key: str) -> int:
        """Columns that the array has now."""
        ...

    def load(self, key: str, count: int | None = None) -> NDArray[np.generic]:
        """The first rows of a table, or all that are stored; Damaged if fewer than ``count``."""
        ...

    def salvage(self, key: str) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        """Whatever can be read of a table, and which rows could be; the others are zeros."""
        ...

    def compression(self, key: str) -> str | None:
        """How a lane is compressed, as `create` calls it."""
        ...

    def save(self, key: str, start: int, values: NDArray[np.generic]) -> None:
        """Write rows of a table from row ``start`` on, which was its end."""
        ...

    def widen(self, key: str, columns: int) -> None:
        """Give an array at least that many columns."""
        ...

    def read(self, key: str, rows: slice, columns: slice, out: Array) -> None:
        """Fill ``out`` from a lane; every chunk touched must exist and match its checksum."""
        ...

    def stored(self, key: str, rows: NDArray[np.int64], columns: slice, item: int) -> Stored | None:
        """Where the chunks of a block of a lane lie in a file, if they are plain.

        Args:
            key: The lane.
            rows: Its rows, increasing.
            columns: Contiguous columns, not none.
            item: Bytes of an element.

        Returns:
            None if they are not uncompressed chunks of one row with a checksum behind each, or
            if one is missing or is not as it should be: then reading says what is wrong.
        """
        ...

    def write(self, key: str, start: int, values: Given, column: int = 0) -> None:
        """Write rows of a lane from row ``start`` on.

        They begin at multiples of `unit`, and end there too or where what exists does.
        """
        ...

    def unit(self, key: str) -> tuple[int, int]:
        """Rows and columns of a lane that are written at once."""
        ...

    def tile(self, key: str) -> tuple[int, int] | None:
        """Rows and columns of a chunk of a lane; None if it has one row, or several grids."""
        ...

    def chunk_columns(self, key: str) -> int:
        """Columns of a chunk of a lane."""
        ...

    def chunks(self, key: str, rows: int, columns: int) -> int:
        """Chunks that so many rows of the first columns of a lane take at least."""
        ...

    def discard(self, key: str, rows: int) -> int:
        """Take rows from ``rows`` on for free space; how many were found there, as far as known."""
        ...

    def flush(self, keys: Iterable[str]) -> None:
        """Hand the arrays to the operating system, so that they survive a kill."""
        ...

    def sync(self, keys: Iterable[str]) -> None:
        """Force the flushed arrays to the disk, so that they survive a loss of power."""
        ...

    def begin(self) -> None:
        """All arrays exist: from here on rows are appended and readers may come."""
        ...

    def let_go(self) -> None:
        """After a failure to write: leave the files as a kill would, but keep the lock."""
        ...

    def revive(self) -> None:
        """Be ready to go on, from what is on the disk."""
        ...

    def damaged_lanes(self) -> Iterator[FormatError]:
        """Walk what says where the chunks of lanes lie, and yield what is wrong.

        For damage that shows or not by what was read before. Only a store opened for reading is
        asked, and only after all lanes were read.
        """
        ...

    def stored_bytes(self) -> int:
        """Size on disk in bytes."""
        ...

    def close(self) -> None:
        """Release the files."""
        ...
