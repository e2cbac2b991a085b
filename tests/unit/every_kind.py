"""A small run with everything in it: every dtype, samples, late tensors, absent scalars."""

from __future__ import annotations

from pathlib import Path

from tests.contract.runs import EVERY_DTYPE, Expected, every_dtype_run
from trajfile.containers import create


def record(path: Path, compression: str | None = None) -> Expected:
    """Record it; what a reader must find is returned."""
    commits = every_dtype_run()
    container = create(path, EVERY_DTYPE, compression=compression)
    for commit in commits:
        container.append(commit)
    container.close()
    return Expected.of(EVERY_DTYPE, commits)
