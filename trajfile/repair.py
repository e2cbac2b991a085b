"""What survived of a damaged run, and a clean file of it."""

from __future__ import annotations

import os
from pathlib import Path

from trajfile.clean_copy import clean_manifest, surviving_commits
from trajfile.containers import check_options, create, open_container, remove
from trajfile.containers.salvage import Salvaged
from trajfile.containers.writer_lock import WriterLock
from trajfile.errors import Damaged, ResourceError, UsageError
from trajfile.paths import local_path
from trajfile.repaired import RepairReport
from trajfile.report import Finding
from trajfile.surviving import surviving, surviving_scalars
from trajfile.validate import check


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
        kept[name], told = surviving(found, name)
        streams.append(told)
    scalars = found.scalars_proven
    if found.manifest().scalars or len(scalars):
        streams.append(surviving_scalars(found))
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
    manifest = clean_manifest(found, kept, report)
    aside = target.with_name(f".{target.stem}.partial{target.suffix}")
    remove(aside)
    try:
        made = create(aside, manifest, compression=found.compression, uuid=found.uuid)
        try:
            for commit in surviving_commits(found, kept, manifest):
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
