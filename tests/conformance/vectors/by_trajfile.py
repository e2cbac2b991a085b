"""Writing a `Run` with trajfile itself, with the clock and the uuid held still."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock
from uuid import UUID

import numpy as np

from tests.conformance.vectors.image import line
from tests.conformance.vectors.runs import FIRST_WALL_NS, Run
from trajfile.containers import create
from trajfile.containers.base import Commit, Container, Rows
from trajfile.dtypes import numpy_dtype
from trajfile.schema import Manifest, parse_manifest


def write(run: Run, path: Path, compression: str | None, *, killed: bool) -> None:
    """Create and append; if ``killed``, leave what is there before closing."""
    moments = range(FIRST_WALL_NS, FIRST_WALL_NS + len(run.commits))
    with (
        mock.patch("trajfile.containers.identity.uuid4", return_value=UUID(run.uuid)),
        mock.patch("trajfile.containers.journal.time.time_ns", side_effect=moments),
    ):
        revisions = [parse_manifest(line(revision)) for revision in run.revisions]
        container = create(path, revisions[0], compression=compression)
        _append(container, run, revisions)
        if killed:
            aside = path.with_name("aside" + path.suffix)
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, aside)
            container.close()
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            aside.rename(path)
        else:
            container.close()


def _append(container: Container, run: Run, revisions: list[Manifest]) -> None:
    used = 0
    counts = dict.fromkeys(revisions[0].by_name, 0)
    for commit in run.commits:
        used += commit.revision
        rows = {}
        for name, count in commit.rows.items():
            if not count:
                continue
            spec = revisions[used].by_name[name]
            first = counts[name]
            lanes = {}
            for lane, columns in spec.lanes.items():
                block = np.zeros((count, columns), f"<u{numpy_dtype(lane).itemsize}")
                for row in range(count):
                    bits = run.lane_row(run.revisions[used], name, lane, first + row)
                    block[row, : len(bits)] = bits
                lanes[lane] = block.view(numpy_dtype(lane))
            samples = np.arange(count, dtype=np.int32) if spec.sampled else None
            rows[name] = Rows(lanes, samples)
            counts[name] += count
        scalars = {name: np.uint64(bits).view(np.float64) for name, bits in commit.scalars.items()}
        revised = revisions[used] if commit.revision else None
        container.append(Commit(commit.step, rows, scalars, revised))
