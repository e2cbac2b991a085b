"""What a commit must satisfy before any container writes a byte of it."""

from __future__ import annotations

import numpy as np

from trajfile.containers.base import Commit, Rows
from trajfile.dtypes import numpy_dtype
from trajfile.errors import RecordError, ShapeMismatch, UndeclaredStream
from trajfile.schema import (
    ABSENT_BITS,
    Manifest,
    SchemaError,
    StreamSpec,
    check_manifest,
    revision_problem,
)


def check_commit(manifest: Manifest, commit: Commit) -> Manifest:
    """Check a commit against the manifest in force.

    Args:
        manifest: The revision in force.
        commit: What is to be appended.

    Returns:
        The revision in force once the commit is made.

    Raises:
        RecordError: If the revision does more than append, a scalar is not declared, or (as a
            `ShapeMismatch`) rows do not fit their lanes.
        UndeclaredStream: If the manifest does not hold a stream.
    """
    revised = manifest if commit.manifest is None else commit.manifest
    if revised is not manifest:
        _check_revision(manifest, revised, commit.step)
    for name, rows in commit.rows.items():
        if name not in revised.by_name:
            raise UndeclaredStream(
                f"stream {name!r} at step {commit.step} is not in the manifest: declare it before "
                "the first append",
                step=commit.step,
                stream=name,
            )
        _check_rows(revised.by_name[name], rows, commit.step)
    for name in commit.scalars:
        if name not in revised.scalars:
            raise RecordError(
                f"scalar {name!r} at step {commit.step} is not in the manifest", step=commit.step
            )
    return revised


def stored_scalar(value: float) -> np.float64:
    """The value as stored: bit for bit, but never the bits that mean absent."""
    stored = np.float64(value)
    return np.float64(np.nan) if stored.view(np.uint64) == ABSENT_BITS else stored


def row_count(rows: Rows) -> int:
    """Number of rows a commit adds to a stream: one, or one for each sample."""
    return 1 if rows.samples is None else len(rows.samples)


def _check_revision(old: Manifest, new: Manifest, step: int) -> None:
    try:
        check_manifest(new)
    except SchemaError as error:
        raise RecordError(f"the manifest revised at step {step} is invalid: {error}") from error
    problem = revision_problem(old, new)
    if problem is not None:
        stream, what = problem
        raise RecordError(f"at step {step}, {what}", step=step, stream=stream)


def _check_rows(stream: StreamSpec, rows: Rows, step: int) -> None:
    if stream.sampled != (rows.samples is not None):
        raise RecordError(
            f"only gradient_samples carry sample indices, found otherwise in {stream.name!r} at "
            f"step {step}",
            step=step,
            stream=stream.name,
        )
    count, lanes = row_count(rows), rows.lanes
    if len(lanes) == len(stream.lanes) and all(
        lane in lanes
        and lanes[lane].shape == (count, columns)
        and lanes[lane].dtype == numpy_dtype(lane)
        for lane, columns in stream.lanes.items()
    ):
        return
    expected = {
        lane: (numpy_dtype(lane), (count, columns)) for lane, columns in stream.lanes.items()
    }
    found = {lane: (array.dtype, array.shape) for lane, array in lanes.items()}
    if expected != found:
        raise ShapeMismatch(
            f"rows of {stream.name!r} at step {step} do not fit its lanes: expected {expected}, "
            f"found {found}",
            step=step,
            stream=stream.name,
        )
