"""Checking a file against the rules of the format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Container
from trajfile.containers.bucket import Unreachable
from trajfile.containers.journal import Journal
from trajfile.errors import FormatError, NotATrajectory
from trajfile.importers import check_trust, open_any
from trajfile.importers.remarks import remarks
from trajfile.paths import run_path
from trajfile.reader import open_trajectory
from trajfile.report import Finding, Value
from trajfile.rules import broken, finding, rank
from trajfile.scan import scan
from trajfile.schema import (
    ABSENT_BITS,
    NOT_YET,
    Manifest,
    SchemaError,
    parse_manifest,
    revision_problem,
)
from trajfile.statements import check_statements
from trajfile.untrusted import Limits, ask, limits


def validate(
    path: str | os.PathLike[str],
    *,
    deep: bool = False,
    untrusted: bool | Limits = False,
    trust: bool = False,
) -> list[Finding]:
    """Check a trajectory against the rules of the format.

    A folder of checkpoints is checked for what it can be: that all of them are whole, of one kind
    and hold the same tensors (rules CKPT of spec/checkpoints.md).

    Args:
        path: An HDF5 file, a Zarr folder, or a folder of checkpoints; or the address of one in a
            store, ``s3://bucket/run.zarr``.
        deep: Whether to read every committed row too, verifying its checksums and looking for
            values that are not finite. Otherwise only manifest, commits, keys and scalars are
            read.
        untrusted: Whether to read it in a process apart, with limits on its memory and time.
        trust: Whether to run code that checkpoints name; see `trajfile.open`.

    Returns:
        One finding for each rule broken at each place, in the order of the rules of `RULES`.
        Each has the rule's id and, in its evidence, the ``location``. Without findings of
        severity ``error`` the file is valid.

    Raises:
        UsageError: If the path is empty, or the address of another machine.
        NotATrajectory: If there is nothing at the path.
        FormatError: If there is nothing at an address, or the store does not answer.
        Unsafe: If a process apart died over it, or exceeded its limits.
    """
    path = run_path(path)
    check_trust(untrusted=untrusted, trust=trust)
    if isinstance(path, Path) and not path.exists():
        raise NotATrajectory(f"{path}: no such file or folder", path=path, rule="CORE-001")
    if untrusted:
        return ask("validate", path, limits(untrusted), deep=deep).findings or []
    try:
        container = open_any(path, trust=trust)
    except FormatError as error:
        if error.rule == "CORE-001":  # there is nothing, or the store does not answer
            raise
        return [broken(error)]
    try:
        findings = check(container, deep=deep)
    finally:
        container.close()
    if isinstance(container, Journal) and all(one.severity != "error" for one in findings):
        findings += _opening(path)
    return sorted(findings, key=rank)


def _opening(path: Path | str) -> Iterator[Finding]:
    """What opening refuses that looking has not found.

    It reads keys first and scalars last. In HDF5 that order decides where indexes claim each
    other's blocks.

    Args:
        path: The file, folder or address, not open any more.

    Yields:
        Up to one finding.
    """
    try:
        open_trajectory(path).close()
    except FormatError as error:
        yield broken(error)


def check(container: Container, *, deep: bool = False) -> list[Finding]:
    """Check an open container; see `validate`.

    Args:
        container: Any container.
        deep: Whether to read every committed row.

    Returns:
        The findings.

    Raises:
        Unreachable: If the store in which it lies does not answer.
    """
    manifest = container.manifest()
    steps = container.commits()[:, 1]
    streams = list(manifest.by_name)
    parts = [
        _commits(container.commits()),
        check_statements(manifest),
        _first_rows(container, manifest),
        _revisions(container),
        _scalars(container, manifest, steps),
        *(_keys(container, stream, steps) for stream in streams),
        *(_rows(container, stream) for stream in streams if deep),
        remarks(container),
    ]
    findings: list[Finding] = []
    for part in parts:
        try:
            findings.extend(part)
        except Unreachable:
            raise  # it says nothing of what lies there
        except FormatError as error:  # this part cannot be read; the others still can
            findings.append(broken(error))
    if deep and isinstance(container, Journal):
        findings += _overlooked(container, findings)
    return findings


def _overlooked(container: Journal, found: list[Finding]) -> list[Finding]:
    """Damage of lanes that reading them in this order has not shown."""
    places = {finding.evidence.get("location") for finding in found}
    return [
        broken(error)
        for error in container.damaged_lanes()
        if error.location.removesuffix(".joined") not in places
    ]


def _rows(container: Container, stream: str) -> Iterator[Finding]:
    """What reading all rows finds, unless keys do not bear out how many there are."""
    try:
        container.keys(stream)
    except FormatError:
        return  # `_keys` has said so
    yield from scan(container, stream)


def _commits(commits: NDArray[np.int64]) -> Iterator[Finding]:
    if not len(commits):
        yield finding("USE-001", "/commits", "nothing has been committed yet")
    numbers, steps = commits[:, 0], commits[:, 1]
    wrong = np.flatnonzero(numbers != np.arange(len(numbers)))
    if len(wrong):
        at = int(wrong[0])
        yield finding("COM-003", "/commits", f"commit {at} is numbered {numbers[at]}", commit=at)
    back = np.flatnonzero(np.diff(steps, prepend=0) < 0)
    if len(back):
        at = int(back[0])
        message = f"commit {at} has step {steps[at]}, after step {steps[at - 1] if at else 0}"
        yield finding("COM-003", "/commits", message, commit=at)
    timeless = np.flatnonzero(commits[:, 2] == 0)
    if len(timeless):
        at = int(timeless[0])
        message = f"commit {at} has the time 0, by which readers tell rows never written"
        yield finding("COM-006", "/commits", message, commit=at)


def _first_rows(container: Container, manifest: Manifest) -> Iterator[Finding]:
    for stream in manifest.streams:
        rows = container.committed_rows(stream.name)
        for tensor in stream.tensors:
            if max(rows, 1) <= tensor.first_row != NOT_YET:
                where = f"/streams/{stream.name}"
                message = (
                    f"{tensor.name!r} joins {stream.name} at row {tensor.first_row}, but {rows} "
                    "rows are committed"
                )
                yield finding("STR-011", where, message, tensor=tensor.name)
                break


def _revisions(container: Container) -> Iterator[Finding]:
    """Each revision against the one before; containers in memory hold none but the last."""
    if not isinstance(container, Journal):
        return
    before: Manifest | None = None
    for number, line in enumerate(container.revisions()):
        try:
            manifest = parse_manifest(line)
        except SchemaError as error:
            message = f"revision {number} of the manifest: {error}"
            yield finding(error.rule, "/manifest", message, revision=number)
            return
        # One that goes back to earlier tables is held to them as it is opened (COM-008).
        appends = before is not None and len(manifest.lineage) == len(before.lineage)
        problem = revision_problem(before, manifest) if before is not None and appends else None
        if problem is not None:
            message = f"revision {number} of the manifest: {problem[1]}"
            yield finding("STR-010", "/manifest", message, revision=number)
            return
        before = manifest


def _keys(container: Container, stream: str, committed: NDArray[np.int64]) -> Iterator[Finding]:
    where = f"/streams/{stream}/step"
    steps, samples = container.keys(stream)
    if samples is None:
        yield from _order(steps, "STR-008", where)
    else:
        # A row either opens a later step with sample 0 or adds the next sample to its step.
        opens = np.diff(steps, prepend=-1) > 0
        follows = (np.diff(steps, prepend=-1) == 0) & (np.diff(samples, prepend=-1) == 1)
        wrong = np.flatnonzero(~((opens & (samples == 0)) | follows))
        if len(wrong):
            row = int(wrong[0])
            message = f"row {row} is sample {samples[row]} of step {steps[row]}, out of order"
            yield finding("STR-008", where, message, row=row)
    yield from _committed(steps, committed, "COM-004", where)


def _scalars(
    container: Container, manifest: Manifest, committed: NDArray[np.int64]
) -> Iterator[Finding]:
    steps, values = container.scalars()
    yield from _order(steps, "COM-005", "/scalars/step")
    yield from _committed(steps, committed, "COM-005", "/scalars/step")
    present = np.ascontiguousarray(values).view(np.uint64) != np.uint64(ABSENT_BITS)
    for column, name in enumerate(manifest.scalars):
        wrong = np.flatnonzero(present[:, column] & ~np.isfinite(values[:, column]))
        if len(wrong):
            first = int(steps[wrong[0]])
            message = f"scalar {name!r} is not finite at {len(wrong)} steps, first at step {first}"
            yield finding(
                "USE-005", "/scalars/value", message, scalar=name, count=len(wrong), step=first
            )
    yield from _learning_rate(manifest, steps, values, len(committed))


def _learning_rate(
    manifest: Manifest, steps: NDArray[np.int64], values: NDArray[np.float64], commits: int
) -> Iterator[Finding]:
    stated: Mapping[str, Value] = manifest.optimizer
    if "learning_rate" in manifest.scalars:
        rates = values[:, manifest.scalars.index("learning_rate")]
        wrong = np.flatnonzero((rates < 0) | np.isinf(rates))
        if len(wrong):
            step = int(steps[wrong[0]])
            message = f"the learning rate is {rates[wrong[0]]} at step {step}"
            yield finding("USE-004", "/scalars/value", message, count=len(wrong), step=step)
    elif commits and stated.get("learning_rate") is None and stated.get("lr") is None:
        message = (
            "no learning rate is known: record it as the scalar 'learning_rate', or state it in "
            "the optimizer; several metrics need it"
        )
        yield finding("USE-003", "/scalars/value", message)


def _order(steps: NDArray[np.int64], rule: str, where: str) -> Iterator[Finding]:
    wrong = np.flatnonzero(np.diff(steps, prepend=-1) <= 0)
    if len(wrong):
        row = int(wrong[0])
        before = int(steps[row - 1]) if row else -1
        message = f"row {row} has step {steps[row]}, which does not exceed {before}"
        yield finding(rule, where, message, row=row)


def _committed(
    steps: NDArray[np.int64], committed: NDArray[np.int64], rule: str, where: str
) -> Iterator[Finding]:
    wrong = np.flatnonzero(~np.isin(steps, committed))
    if len(wrong):
        row = int(wrong[0])
        message = f"row {row} has step {steps[row]}, at which nothing was committed"
        yield finding(rule, where, message, row=row)
