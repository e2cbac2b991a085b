"""What survived of a damaged run, and a clean file of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from trajfile.containers import check_options, create, open_container, remove
from trajfile.containers.base import Array, Commit, Rows
from trajfile.containers.salvage import Salvaged, enclosing
from trajfile.containers.writer_lock import WriterLock
from trajfile.dtypes import numpy_dtype
from trajfile.errors import Damaged, ResourceError, UsageError
from trajfile.holes import holes
from trajfile.paths import local_path
from trajfile.report import Finding, plain
from trajfile.scan import reason
from trajfile.schema import ABSENT_BITS, NOT_YET, Manifest, StreamSpec, TensorSpec
from trajfile.validate import check
from trajfile.version import __version__

#: Where the manifest's metadata say that a file was repaired.
NOTE = "trajfile_repairs"

_MOST_NOTED = 20
_ARRAY_LOST = "the array cannot be read"
_KEY_LOST = "its step is not proven"

Reasons = dict[int, tuple[str, tuple[str, ...]]]


@dataclass(frozen=True)
class LostRows:
    """Rows of a stream that could not be saved, for one reason.

    Attributes:
        reason: Why.
        rows: First and last of rows that follow one another.
        steps: First and last step of those whose step is known; None if none is.
        tensors: The damaged tensors; empty if all are.
    """

    reason: str
    rows: tuple[int, int]
    steps: tuple[int, int] | None
    tensors: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many rows."""
        return self.rows[1] - self.rows[0] + 1


@dataclass(frozen=True)
class StreamRepair:
    """What became of one stream.

    Attributes:
        name: The stream, or ``scalars``.
        committed: Rows that were committed.
        saved: Rows that the new file holds.
        lost: The others.
    """

    name: str
    committed: int
    saved: int
    lost: tuple[LostRows, ...] = ()


@dataclass(frozen=True)
class RepairReport:
    """What `repair` saved.

    Attributes:
        path: The damaged run.
        out: The clean file of what survived.
        backup: Where the damaged run lies now, if the clean one took its place.
        uuid: Of both.
        streams: What became of each stream, the scalars last.
        mended: What was damaged and is whole again, one phrase each.
        lost: What else is lost, one phrase each.
        remarks: What `trajfile.validate` says of the new file, errors excepted.
    """

    path: str
    out: str
    backup: str | None
    uuid: str
    streams: tuple[StreamRepair, ...]
    mended: tuple[str, ...]
    lost: tuple[str, ...]
    remarks: tuple[Finding, ...] = ()

    @property
    def lossy(self) -> bool:
        """Whether anything that was committed is lost."""
        return bool(self.lost) or any(stream.lost for stream in self.streams)

    def to_dict(self) -> dict[str, Any]:
        """The report in plain JSON types."""
        built = {**vars(self), "streams": [asdict(stream) for stream in self.streams]}
        told: dict[str, Any] = plain(msgspec.to_builtins({**built, "lossy": self.lossy}))
        return told


def repair(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    in_place: bool = False,
) -> RepairReport:
    """Write a clean file of what is proven of a damaged run.

    Whatever the checksums prove is kept bit for bit, with its uuid, steps and times; nothing
    else is. Rows with a damaged chunk are left out of their stream. The metadata of the new file
    say what was left out, under ``trajfile_repairs``. A run that nothing happened to is copied.

    Args:
        path: The run: an HDF5 file or a Zarr folder. It is only read.
        out: Where the clean run goes; the suffix picks the container. By default beside the run,
            as ``<name>.repaired.<suffix>``.
        in_place: Whether the clean run takes the place of the damaged one, which is kept under
            the name ``<name>.damaged.<suffix>``. Goes without `out`.

    Returns:
        What survived and what did not.

    Raises:
        UsageError: If `out` exists or has another suffix, or does not go with `in_place`.
        FormatError: If nothing can be saved.
        ResourceError: If the run is being written, or the disk is full.
    """
    source = local_path(path)
    if in_place and out is not None:
        raise UsageError("in_place writes to the place of the run: leave out the other path")
    target = _named(source, "repaired") if out is None else local_path(out)
    if in_place:
        target = source.with_name(f".{_named(source, 'repaired').name}")
        remove(target)
    check_options(target, compression=None, durability="process")
    if target.is_symlink() or target.exists():
        raise UsageError(f"{target} exists already: name another file (-o OUT)")
    backup = _named(source, "damaged") if in_place else None
    if backup is not None and (backup.is_symlink() or backup.exists()):
        raise UsageError(f"{backup} exists already: move it away, for the damaged run goes there")
    if (source.is_file() or source.is_dir()) and WriterLock.is_held(source):
        raise ResourceError(f"{source} is being written: repair it once its writer has ended")
    found = Salvaged(source)
    try:
        report = _write(found, source, target, backup)
    finally:
        found.close()
    if backup is not None:
        source.rename(backup)
        target.rename(source)
    return report


def _named(path: Path, word: str) -> Path:
    suffix = path.suffix or (".zarr" if path.is_dir() else ".h5")
    return path.with_name(f"{path.stem}.{word}{suffix}")


def _write(found: Salvaged, source: Path, target: Path, backup: Path | None) -> RepairReport:
    """Write what survived beside its place, look it through, and move it there."""
    kept, streams = {}, []
    for name in found.manifest().by_name:
        kept[name], told = _surviving(found, name)
        streams.append(told)
    scalars = found.scalars_proven
    if found.manifest().scalars or len(scalars):
        streams.append(_scalars(found))
    notes = found.notes
    report = RepairReport(
        path=str(source),
        out=str(source if backup is not None else target),
        backup=None if backup is None else str(backup),
        uuid=found.uuid,
        streams=tuple(streams),
        mended=tuple(notes.mended),
        lost=tuple(notes.lost),
    )
    if not any(stream.saved for stream in streams):
        raise Damaged(
            f"{source}: no row is proven, so nothing can be saved; restore it from a copy",
            path=source,
            rule="SUM-003",
        )
    manifest = _manifest(found, kept, report)
    aside = target.with_name(f".{target.stem}.partial{target.suffix}")
    remove(aside)
    try:
        made = create(aside, manifest, compression=found.compression, uuid=found.uuid)
        try:
            for commit in _commits(found, kept, manifest):
                made.append(commit)
        finally:
            made.close()
        remarks = _looked_through(aside)
        aside.rename(target)
    except BaseException:
        remove(aside)
        raise
    return RepairReport(**{**vars(report), "remarks": remarks})


def _looked_through(path: Path) -> tuple[Finding, ...]:
    """Every byte of the new file, read again; it must be valid."""
    container = open_container(path)
    try:
        findings = check(container, deep=True)
    finally:
        container.close()
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        where = errors[0].evidence.get("location", "")
        raise Damaged(
            f"what can be saved would not be valid: {where}: {errors[0].message}; the run was "
            "not written by a conforming writer",
            path=path,
            location=str(where),
            rule=errors[0].id,
        )
    return tuple(findings)


def _surviving(found: Salvaged, stream: str) -> tuple[NDArray[np.bool_], StreamRepair]:
    """Which rows of a stream survived."""
    proven = found.proven(stream)
    steps, _ = found.keys(stream)
    keep = proven.copy()
    reasons: Reasons = {}
    lanes = found.manifest().by_name[stream].lanes
    gone = [lane for lane in lanes if (stream, lane) in found.lanes_lost]
    if gone:
        why = f"{_ARRAY_LOST} ({gone[0]})"
        reasons = {int(row): (why, ()) for row in np.flatnonzero(keep)}
        keep[:] = False
    else:
        for hole in holes(found, stream, np.flatnonzero(proven)):
            before = reasons.get(hole.row, ("", ()))[1]
            reasons[hole.row] = (reason(hole), tuple(dict.fromkeys([*before, *hole.tensors])))
            keep[hole.row] = False
    reasons |= {int(row): (_KEY_LOST, ()) for row in np.flatnonzero(~proven)}
    lost = tuple(_runs(reasons, steps))
    return keep, StreamRepair(stream, len(keep), int(keep.sum()), lost)


def _scalars(found: Salvaged) -> StreamRepair:
    proven = found.scalars_proven
    reasons: Reasons = {
        int(row): ("the checksum in the commit record does not hold", ())
        for row in np.flatnonzero(~proven)
    }
    steps = np.full(len(proven), -1, np.int64)
    return StreamRepair("scalars", len(proven), int(proven.sum()), tuple(_runs(reasons, steps)))


def _runs(reasons: Reasons, steps: NDArray[np.int64]) -> Iterator[LostRows]:
    """Lost rows that follow one another and were lost alike, together."""
    run: list[int] = []
    for row in [*sorted(reasons), -1]:
        if run and (row != run[-1] + 1 or reasons[row] != reasons[run[0]]):
            at = [int(step) for step in steps[run] if step >= 0]
            why, tensors = reasons[run[0]]
            ends = (min(at), max(at)) if at else None
            yield LostRows(why, (run[0], run[-1]), ends, tensors)
            run = []
        run.append(row)


def _manifest(
    found: Salvaged, kept: dict[str, NDArray[np.bool_]], report: RepairReport
) -> Manifest:
    """The manifest of the new file: rows are counted anew, and a note says why."""
    before = found.manifest()
    earlier = before.metadata.get(NOTE, [])
    note = {
        "software": f"trajfile {__version__}",
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "lossy": report.lossy,
        "mended": list(report.mended[:_MOST_NOTED]),
        "lost": [
            *report.lost[:_MOST_NOTED],
            *(
                {
                    "stream": stream.name,
                    "rows": list(rows.rows),
                    "steps": None if rows.steps is None else list(rows.steps),
                    "reason": rows.reason,
                }
                for stream in report.streams
                for rows in stream.lost[:_MOST_NOTED]
            ),
        ],
    }
    return msgspec.structs.replace(
        before,
        streams=tuple(_counted(spec, kept[spec.name]) for spec in before.streams),
        metadata={**before.metadata, NOTE: [*(earlier if isinstance(earlier, list) else []), note]},
        software=f"trajfile {__version__}",
    )


def _counted(spec: StreamSpec, kept: NDArray[np.bool_]) -> StreamSpec:
    """The stream with first rows counted among the kept ones."""
    rows = int(kept.sum())
    settled: list[TensorSpec] = []
    waiting: list[TensorSpec] = []
    for tensor in spec.tensors:
        first = int(kept[: tensor.first_row].sum()) if tensor.first_row < NOT_YET else NOT_YET
        if tensor.first_row and first >= rows:
            first = NOT_YET  # no row is left that holds it
        moved = msgspec.structs.replace(tensor, first_row=first)
        (waiting if first == NOT_YET else settled).append(moved)
    return StreamSpec(spec.name, tuple(settled + waiting))


def _commits(
    found: Salvaged, kept: dict[str, NDArray[np.bool_]], manifest: Manifest
) -> Iterator[Commit]:
    """The surviving rows in the order in which they were committed, a step at a time."""
    at, values = found.scalars()
    names = manifest.scalars
    for before, record in enclosing(found.records):
        rows: dict[int, dict[str, list[int]]] = {}
        for number, stream in enumerate(manifest.by_name):
            steps, _ = found.keys(stream)
            for row in range(before.rows[number], record.rows[number]):
                if kept[stream][row]:
                    rows.setdefault(int(steps[row]), {}).setdefault(stream, []).append(row)
        scalars = {
            int(at[row]): _present(names, values[row])
            for row in range(before.scalar_rows, record.scalar_rows)
            if found.scalars_proven[row]
        }
        for step in sorted({*rows, *scalars}):
            yield Commit(
                step,
                {
                    stream: _rows(found, manifest.by_name[stream], which)
                    for stream, which in rows.get(step, {}).items()
                },
                scalars.get(step, {}),
                wall_ns=record.wall_ns,
            )


def _present(names: tuple[str, ...], values: NDArray[np.float64]) -> dict[str, float]:
    bits = values.view(np.uint64)
    pairs = zip(names, values, bits, strict=True)
    return {name: value for name, value, bit in pairs if bit != ABSENT_BITS}


def _rows(found: Salvaged, spec: StreamSpec, which: list[int]) -> Rows:
    lanes: dict[str, Array] = {}
    for lane, columns in spec.lanes.items():
        block = np.empty((len(which), columns), numpy_dtype(lane))
        for index, row in enumerate(which):
            place = slice(row, row + 1)
            found.read(spec.name, lane, place, slice(0, columns), block[index : index + 1])
        lanes[lane] = block
    # Samples are counted from 0 again: a file may not skip one.
    samples = np.arange(len(which), dtype=np.int32) if spec.sampled else None
    return Rows(lanes, samples)
