"""What the commit records prove of a damaged trajectory.

The checksums in a record run from the first entry to the last, so two valid records enclose what
was committed between them: it is proven by itself, whatever lies before it or after. A record also
knows the step of its rows, so keys that are lost can be had again, and a checksum that is off by
one damaged byte says which byte it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.mend import mended
from trajfile.containers.record import (
    SAMPLE_ENTRY,
    Record,
    crc32c,
    keys_crc,
    scalar_entries,
    scalars_crc,
    valid_records,
)
from trajfile.schema import (
    Identity,
    Manifest,
    SchemaError,
    parse_identity,
    parse_manifest,
)

_MOST_MENDED = 64


@dataclass
class Notes:
    """What was found, one sentence each.

    Attributes:
        mended: What was damaged and is whole again.
        lost: What cannot be had again.
    """

    mended: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def prove_records(
    table: NDArray[np.uint64], known: NDArray[np.bool_], notes: Notes
) -> tuple[list[Record], int]:
    """The records that are valid, or are once one byte is mended.

    Args:
        table: /commits as far as it can be read.
        known: Which rows could be read.
        notes: Where what was found is noted.

    Returns:
        The records, in order, and how many commits are lost at the end.
    """
    table = table.copy()
    valid = valid_records(table) & known
    # Every record has a time, a length of the manifest, its CRC and its own: what has fewer was
    # never written.
    written = known & (table[:, -1] != 0) & (np.count_nonzero(table, axis=1) > 2)
    repaired = []
    for row in np.flatnonzero(written & ~valid)[:_MOST_MENDED]:
        data = table[row].astype("<u8").tobytes()
        whole = mended(data[:-8], int(table[row, -1])) or _with_crc(data)
        if whole is not None:
            table[row] = np.frombuffer(whole.ljust(len(data), b"\0"), "<u8")
            table[row, -1] = crc32c(table[row, :-1].astype("<u8"))
            valid[row] = bool(table[row, 0] == row)
            repaired.append(int(row))
    if repaired:
        notes.mended.append(f"one byte each of {_listed('commit record', repaired)} was damaged")
    records: list[Record] = []
    streams = (table.shape[1] - 8) // 2
    last = Record.empty(streams)
    gone = []
    for row in range(int(np.flatnonzero(written | valid).max(initial=-1)) + 1):
        record = Record.decode(table[row]) if valid[row] else None
        if record is None or (record.step >= 0 and _takes_back(last, record)):
            gone.append(row)
            continue
        if record.step < 0:  # a rewind: what it took back is not to come again
            records = [kept for kept in records if kept.step < ~record.step]
            last = record
            continue
        records.append(record)
        last = record
    tail = [row for row in gone if row > last.seq]
    between = [row for row in gone if row < last.seq]
    if between:
        notes.mended.append(
            f"{_listed('commit record', between)} is damaged; what it committed is proven by "
            "the next one, but the time is lost"
        )
    return records, len(tail)


def _with_crc(data: bytes) -> bytes | None:
    """The record if the damaged byte is one of the checksum itself."""
    found, due = data[-8:], crc32c(data[:-8]).to_bytes(8, "little")
    return data[:-8] + due if sum(a != b for a, b in zip(found, due, strict=True)) == 1 else None


def _takes_back(before: Record, after: Record) -> bool:
    counts = [(r.manifest_bytes, r.scalar_rows, *r.rows) for r in (before, after)]
    return any(a > b for a, b in zip(*counts, strict=True))


@dataclass
class ProvenManifest:
    """The newest revision that is proven.

    Attributes:
        manifest: The revision.
        first: The first revision, if it is proven; it says how arrays were created.
        identity: Whose it is, if it says so.
        complete: Whether no later revision is lost.
    """

    manifest: Manifest
    first: Manifest
    identity: Identity | None
    complete: bool


def prove_manifest(
    data: bytes, records: list[Record], streams: int, notes: Notes
) -> ProvenManifest | None:
    """The newest proven revision of the manifest.

    Args:
        data: /manifest as far as it can be read.
        records: The proven records.
        streams: How many streams the records count.
        notes: Where what was found is noted.

    Returns:
        The revision; None if none is proven.
    """
    newest: bytes | None = None
    first: bytes | None = None
    complete, start, crc = True, 0, 0
    for record in records:
        if record.manifest_bytes == start:
            continue
        part = data[start : record.manifest_bytes]
        whole: bytes | None = part
        if len(part) < record.manifest_bytes - start:
            whole = None
        elif crc32c(part, crc) != record.manifest_crc:
            whole = mended(part, record.manifest_crc, crc)
            if whole is not None:
                notes.mended.append("one byte of the manifest was damaged")
        complete = whole is not None and _parsed(whole, streams) is not None
        if whole is not None and complete:
            newest, first = whole, first or whole
        else:
            notes.lost.append(
                f"the revision of the manifest of step {record.step}, and what joined there"
            )
        start, crc = record.manifest_bytes, record.manifest_crc
    if newest is None or first is None:
        return None
    opening = first.partition(b"\n")[0] + b"\n"
    manifest = parse_manifest(newest)
    return ProvenManifest(
        manifest, _parsed(opening, streams) or manifest, parse_identity(newest), complete
    )


def _parsed(lines: bytes, streams: int) -> Manifest | None:
    try:
        manifest = parse_manifest(lines)
        parse_identity(lines)
    except SchemaError:
        return None
    return manifest if len(manifest.streams) == streams else None


@dataclass
class ProvenKeys:
    """The keys of a stream's committed rows.

    Attributes:
        steps: int64; -1 where not proven.
        samples: int32, in gradient samples.
        proven: Which are.
    """

    steps: NDArray[np.int64]
    samples: NDArray[np.int32] | None
    proven: NDArray[np.bool_]


def prove_keys(
    stored: tuple[NDArray[np.int64], NDArray[np.int32] | None],
    records: list[Record],
    index: int,
    name: str,
    notes: Notes,
) -> ProvenKeys:
    """The keys that the records prove, as stored or as the record of their commit has them.

    Args:
        stored: Steps and samples as far as they can be read; missing ones zero.
        records: The proven records.
        index: The stream's number.
        name: Its name.
        notes: Where what was found is noted.

    Returns:
        The keys of all committed rows.
    """
    count = records[-1].rows[index]
    steps = _padded(stored[0], count)
    samples = None if stored[1] is None else _padded(stored[1], count)
    proven = np.zeros(count, np.bool_)
    before = Record.empty(len(records[0].rows))
    restored = 0
    for record in records:
        part = slice(before.rows[index], record.rows[index])
        due, crc = record.keys_crcs[index], before.keys_crcs[index]
        size = part.stop - part.start
        held = (steps[part], None if samples is None else samples[part])
        if keys_crc(*held, crc) == due:
            proven[part] = True
        elif size:
            told = (
                np.full(size, record.step, np.int64),
                None if samples is None else np.arange(size, dtype=np.int32),
            )
            found = told if keys_crc(*told, crc) == due else _mended_keys(held, due, crc)
            if found is not None:
                steps[part], proven[part] = found[0], True
                if samples is not None and found[1] is not None:
                    samples[part] = found[1]
                restored += size
        before = record
    if restored:
        notes.mended.append(f"the keys of {restored} rows of {name}, from the commit records")
    steps[~proven] = -1
    return ProvenKeys(steps, samples, proven)


def _mended_keys(
    held: tuple[NDArray[np.int64], NDArray[np.int32] | None], due: int, crc: int
) -> tuple[NDArray[np.int64], NDArray[np.int32] | None] | None:
    steps, samples = held
    if samples is None:
        whole = mended(steps.astype("<i8").tobytes(), due, crc)
        return None if whole is None else (np.frombuffer(whole, "<i8").astype(np.int64), None)
    entries = np.empty(len(steps), SAMPLE_ENTRY)
    entries["step"], entries["sample"] = steps, samples
    whole = mended(entries.tobytes(), due, crc)
    if whole is None:
        return None
    found = np.frombuffer(whole, SAMPLE_ENTRY)
    return found["step"].astype(np.int64), found["sample"].astype(np.int32)


def prove_scalars(
    steps: NDArray[np.int64], values: NDArray[np.float64], records: list[Record], notes: Notes
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """The scalars that the records prove.

    Args:
        steps: Shape (rows,), as far as they can be read; missing ones zero.
        values: Shape (rows, columns), likewise.
        records: The proven records.
        notes: Where what was found is noted.

    Returns:
        Steps, values and which rows are proven.
    """
    count = records[-1].scalar_rows
    steps, values = _padded(steps, count), _padded(values, count)
    proven = np.zeros(count, np.bool_)
    start, crc, restored = 0, 0, 0
    for record in records:
        part = slice(start, record.scalar_rows)
        if part.stop > part.start:
            told = np.full(part.stop - part.start, record.step, np.int64)
            if scalars_crc(start, steps[part], values[part], crc) == record.scalars_crc:
                proven[part] = True
            elif scalars_crc(start, told, values[part], crc) == record.scalars_crc:
                steps[part], proven[part] = told, True
                restored += len(told)
            elif _mend_scalars(start, steps[part], values[part], record.scalars_crc, crc):
                proven[part] = True
                restored += len(told)
        start, crc = record.scalar_rows, record.scalars_crc
    if restored:
        notes.mended.append(f"{restored} rows of scalars had one damaged byte or step")
    return steps, values, proven


def _mend_scalars(
    first: int, steps: NDArray[np.int64], values: NDArray[np.float64], due: int, crc: int
) -> bool:
    """Mend one byte in place, if one explains the checksum."""
    entries, present = scalar_entries(first, steps, values)
    whole = mended(entries[present].tobytes(), due, crc)
    if whole is None:
        return False
    entries[present] = np.frombuffer(whole, entries.dtype)
    due_entries, _ = scalar_entries(first, steps, values)
    same = all((entries[name] == due_entries[name]).all() for name in ("row", "column"))
    if same:
        steps[...] = entries["bits"][:, 0].view(np.int64)
        values[...] = np.ascontiguousarray(entries["bits"][:, 1:]).view(np.float64)
    return same


def _padded(array: NDArray[np.generic], count: int) -> NDArray:  # type: ignore[type-arg] # as given
    out = np.zeros((count, *array.shape[1:]), array.dtype)
    out[: min(count, len(array))] = array[:count]
    return out


def _listed(noun: str, numbers: list[int]) -> str:
    few = ", ".join(str(number) for number in numbers[:5])
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return f"{noun}{'' if len(numbers) == 1 else 's'} {few}{more}"
