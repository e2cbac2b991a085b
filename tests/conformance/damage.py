"""Ways to spoil a trajectory, with plain file operations and the stock libraries."""

from __future__ import annotations

from pathlib import Path

import h5py
import msgspec
import numpy as np
import pytest

from tests.contract.runs import random_rows, stream
from trajfile.containers import create, open_container
from trajfile.containers.base import Commit
from trajfile.errors import FormatError
from trajfile.schema import Manifest

SMALL = Manifest((stream("params", ("w", (3000,), "float32")),), ("loss",))


def small_run(path: Path, rows: int = 3, compression: str | None = None) -> Path:
    """Three rows of random bits, cleanly closed."""
    rng = np.random.default_rng(17)
    container = create(path, SMALL, compression=compression)
    for step in range(rows):
        container.append(
            Commit(step, {"params": random_rows(SMALL.streams[0], rng)}, {"loss": 1.0})
        )
    container.close()
    return path


def read_all(path: Path) -> None:
    """Use everything a reader may use."""
    container = open_container(path)
    try:
        container.scalars()
        for spec in container.manifest().streams:
            container.keys(spec.name)
            rows = container.committed_rows(spec.name)
            for lane, columns in spec.lanes.items():
                out = np.empty((rows, columns), np.dtype(lane))
                container.read(spec.name, lane, slice(0, rows), slice(0, columns), out)
    finally:
        container.close()


def refusal(path: Path) -> FormatError:
    """The error with which the trajectory is refused; its message is one clear sentence."""
    with pytest.raises(FormatError) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def flip(path: Path, offset: int) -> None:
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def chunk_offset(path: Path, key: str, index: int) -> int:
    """Where a chunk of an HDF5 dataset lies in the file."""
    with h5py.File(path, "r") as file:
        return int(file[key].id.get_chunk_info(index).byte_offset)


def edit_json(path: Path, **changes: object) -> None:
    """Change top-level fields of a JSON file."""
    document = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**document, **changes}))
