"""Tensors that are declared long before they are recorded cost nothing until then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.contract.runs import read, stream
from trajfile.containers import create, open_container
from trajfile.containers.base import Commit, Rows
from trajfile.containers.digest import digest
from trajfile.containers.memory import MemoryContainer
from trajfile.schema import NOT_YET, Manifest

WIDE = 500_000


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_frozen_tensors_of_a_slot(tmp_path: Path, suffix: str) -> None:
    name = "optimizer/exp_avg"
    waiting = Manifest(
        (stream(name, ("head", (8,), "float32"), ("body", (WIDE,), "float32", NOT_YET)),)
    )
    settled = Manifest(
        (
            stream(
                name,
                ("head", (8,), "float32"),
                ("new", (6,), "float32", 2),
                ("body", (WIDE,), "float32", 3),  # now beyond the width at creation
            ),
        )
    )
    between = Manifest(
        (
            stream(
                name,
                ("head", (8,), "float32"),
                ("new", (6,), "float32", 2),
                ("body", (WIDE,), "float32", NOT_YET),
            ),
        )
    )
    container = create(tmp_path / f"run{suffix}", waiting)
    reference = MemoryContainer(waiting)
    empty = container.stored_bytes()
    rng = np.random.default_rng(23)
    for row, (manifest, exist) in enumerate(
        [(waiting, 8), (waiting, 8), (between, 14), (settled, WIDE + 14), (settled, WIDE + 14)]
    ):
        values = np.zeros((1, manifest.streams[0].lanes["float32"]), np.float32)
        values[0, :exist] = rng.standard_normal(exist)
        revision = manifest if row in {2, 3} else None
        commit = Commit(row, {name: Rows({"float32": values})}, {}, revision)
        for one in (container, reference):
            one.append(commit)
        if row == 2:
            # At most a chunk a row: the frozen tensor's columns are not stored.
            assert container.stored_bytes() - empty < 3 * 1_100_000
    container.close()
    opened = open_container(tmp_path / f"run{suffix}")
    assert digest(opened) == digest(reference)
    across = slice(WIDE - 50, WIDE + 14)  # both sides of the width at creation
    found = read(opened, name, "float32", slice(1, 5), across)
    np.testing.assert_array_equal(found, read(reference, name, "float32", slice(1, 5), across))
    assert found[2:].all()
    opened.close()
