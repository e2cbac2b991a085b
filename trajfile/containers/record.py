"""The commit record: what is committed, and the checksums by which a reader can tell.

One row of ``/commits`` is little-endian uint64: seq, step, wall_ns, bytes of the manifest, scalar
rows, rows of each stream; then CRC-32Cs of the manifest, the scalars and each stream's keys, all
from the first entry to the last; then the CRC-32C of the row's preceding bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from trajfile.containers.store import commit_columns
from trajfile.schema import ABSENT_BITS

_FIXED = 5
_STEP_COLUMN = 0xFFFFFFFF
_SCALAR_ENTRY = np.dtype([("row", "<u8"), ("column", "<u4"), ("bits", "<u8")])
SAMPLE_ENTRY = np.dtype([("step", "<i8"), ("sample", "<i4")])


def crc32c(data: bytes | NDArray[Any], before: int = 0) -> int:
    """CRC-32C (Castagnoli) of the bytes, continuing from the checksum of what came before.

    Args:
        data: Bytes, or an array in C order.
        before: CRC of the preceding bytes.

    Returns:
        The CRC of both together.
    """
    if isinstance(data, np.ndarray):
        if data.size == 0:
            return before
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        data.flags.writeable = False  # the extension takes only read-only buffers
    return int(google_crc32c.extend(before, data))


def keys_crc(steps: NDArray[np.int64], samples: NDArray[np.int32] | None, before: int = 0) -> int:
    """CRC-32C over rows' keys: int64 step, followed by int32 sample where there are samples."""
    if samples is None:
        return crc32c(steps.astype("<i8").tobytes(), before)
    entries = np.empty(len(steps), SAMPLE_ENTRY)
    entries["step"] = steps
    entries["sample"] = samples
    return crc32c(entries, before)


def scalars_crc(
    first_row: int, steps: NDArray[np.int64], values: NDArray[np.float64], before: int = 0
) -> int:
    """CRC-32C over the scalars that are present, so that new columns leave it as it is.

    Each row contributes (row uint64, 2^32-1 uint32, step int64), then for each present value in
    the order of columns (row uint64, column uint32, float64 bits), packed little-endian.

    Args:
        first_row: Row number of the first of these rows.
        steps: int64, shape (rows,).
        values: float64, shape (rows, names); absent ones have `ABSENT_BITS`.
        before: CRC of the preceding rows.

    Returns:
        The CRC of both together.
    """
    entries, present = scalar_entries(first_row, steps, values)
    return crc32c(entries[present], before)


def scalar_entries(
    first_row: int, steps: NDArray[np.int64], values: NDArray[np.float64]
) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
    """What `scalars_crc` covers.

    Args:
        first_row: Row number of the first of these rows.
        steps: int64, shape (rows,).
        values: float64, shape (rows, names).

    Returns:
        An entry for each step and value, shape (rows, 1 + names), and which of them count.
    """
    entries = np.empty((len(steps), 1 + values.shape[1]), _SCALAR_ENTRY)
    entries["row"] = np.arange(first_row, first_row + len(steps))[:, None]
    entries["column"][:, 0] = _STEP_COLUMN
    entries["column"][:, 1:] = np.arange(values.shape[1])
    entries["bits"][:, 0] = steps.view(np.uint64)
    entries["bits"][:, 1:] = values.view(np.uint64)
    present = entries["bits"] != ABSENT_BITS
    present[:, 0] = True
    return entries, present


@dataclass(frozen=True)
class Record:
    """What one commit makes visible.

    Attributes:
        seq: Its number, from 0.
        step: The step at which it was made; -1 - N if it is a rewind to step N.
        wall_ns: Nanoseconds since 1970.
        manifest_bytes: Committed bytes of /manifest.
        scalar_rows: Committed rows of the scalars.
        rows: Committed rows of each stream, in the manifest's order.
        manifest_crc: CRC-32C of the committed manifest.
        scalars_crc: As `scalars_crc` computes it over all committed rows.
        keys_crcs: As `keys_crc` computes it over all committed rows, for each stream.
    """

    seq: int
    step: int
    wall_ns: int
    manifest_bytes: int
    scalar_rows: int
    rows: tuple[int, ...]
    manifest_crc: int
    scalars_crc: int
    keys_crcs: tuple[int, ...]

    @classmethod
    def empty(cls, streams: int) -> Record:
        """The state before the first commit."""
        return cls(-1, 0, 0, 0, 0, (0,) * streams, 0, 0, (0,) * streams)

    def encode(self) -> NDArray[np.uint64]:
        """The row of /commits, uint64, shape (1, 8 + 2 streams)."""
        body = [
            *(self.seq, self.step & (2**64 - 1), self.wall_ns, self.manifest_bytes),
            *(self.scalar_rows, *self.rows),
            *(self.manifest_crc, self.scalars_crc, *self.keys_crcs),
        ]
        packed = struct.pack(f"<{len(body)}Q", *body)
        row = packed + crc32c(packed).to_bytes(8, "little")
        return np.frombuffer(bytearray(row), "<u8")[None]

    @classmethod
    def decode(cls, row: NDArray[np.uint64]) -> Record:
        """The inverse of `encode` for a row whose checksum holds."""
        values = [int(value) for value in row]
        streams = (len(values) - 8) // 2
        crcs = values[_FIXED + streams :]
        return cls(
            seq=values[0],
            step=int(row[1:2].view(np.int64)[0]),
            wall_ns=values[2],
            manifest_bytes=values[3],
            scalar_rows=values[4],
            rows=tuple(values[_FIXED : _FIXED + streams]),
            manifest_crc=crcs[0],
            scalars_crc=crcs[1],
            keys_crcs=tuple(crcs[2 : 2 + streams]),
        )


def valid_records(table: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which rows of /commits have a checksum that holds and the number of their place.

    Args:
        table: uint64, shape (rows, columns).

    Returns:
        bool, shape (rows,).
    """
    packed = table.astype("<u8")
    width = packed.itemsize * packed.shape[1]
    data = packed.tobytes()
    ends = range(width, len(data) + 1, width)
    found = [google_crc32c.value(data[end - width : end - 8]) for end in ends]
    holds: NDArray[np.bool_] = packed[:, -1] == np.array(found, np.uint64)
    holds &= packed[:, 0] == np.arange(len(packed), dtype=np.uint64)
    return holds


def in_force(table: NDArray[np.uint64]) -> list[int]:
    """Which commits of a table of valid records no rewind has taken back.

    A record whose step, as int64, is negative is a rewind to step N = -1 - step: it takes back the
    commits at and after N, and states once more what the last one before them stated.

    Args:
        table: uint64, shape (records, columns).

    Returns:
        Their numbers, in order.

    Raises:
        ValueError: If a count shrinks otherwise, or a rewind states something else.
    """
    streams = (table.shape[1] - 8) // 2
    steps = np.ascontiguousarray(table[:, 1]).view(np.int64)
    counts = table[:, 3 : _FIXED + streams]
    shrinks: NDArray[np.bool_] = np.any(counts[1:] < counts[:-1], axis=1) & (steps[1:] >= 0)
    if shrinks.any():
        raise ValueError(f"commit record {int(np.argmax(shrinks)) + 1} takes committed rows back")
    restated = [*range(4, _FIXED + streams), *range(_FIXED + streams + 1, table.shape[1] - 1)]
    kept: list[int] = []
    start = 0
    for at in np.flatnonzero(steps < 0).tolist():
        kept += range(start, at)
        while kept and steps[kept[-1]] >= ~steps[at]:
            kept.pop()
        known = table[kept[-1]] if kept else np.zeros_like(table[at])
        if (table[at, restated] != known[restated]).any() or (
            at > 0 and counts[at, 0] < counts[at - 1, 0]
        ):
            raise ValueError(
                f"commit record {at} goes back to step {~steps[at]}, but does not state what was "
                "committed before it"
            )
        start = at + 1
    return [*kept, *range(start, len(table))]


def has_record_width(columns: int) -> bool:
    """Whether /commits has a width that some number of streams explains."""
    return columns >= 8 and commit_columns((columns - 8) // 2) == columns
