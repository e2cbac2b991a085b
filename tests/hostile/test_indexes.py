"""HDF5 chunk indexes that lie: what an array holds never hangs on which others were read before."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import trajfile
from tests.conformance.damage import read_all
from trajfile.containers.hdf5_resume import lookup3
from trajfile.errors import FormatError

#: Within the header of an extensible array: the highest index set, and where its blocks begin.
_HIGHEST, _BLOCK, _CHECKSUM = 44, 60, 68
STEPS = "streams/params/step"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Streams with the same values at the same steps, so that no checksum tells them apart."""
    made = tmp_path / "run.h5"
    rng = np.random.default_rng(3)
    with trajfile.Writer(made, optimizer={"name": "SGD", "lr": 0.1}) as writer:
        for step in range(4):
            row = {"w": rng.standard_normal(201).astype(np.float32)}
            writer.append(step, params=row, gradients=row, updates=row, scalars={"loss": 1.0})
    return made


def index_of(path: Path, key: str) -> int:
    """Where the header of a dataset's chunk index lies: the one that its own header points to."""
    data = path.read_bytes()
    with h5py.File(path, "r") as file:
        header = h5py.h5o.get_info(file[key].id).addr
    end = data.find(b"OHDR", header + 4)
    pointers = data[header : end if end > 0 else None]
    places = [at.start() for at in re.finditer(b"EAHD", data)]
    (place,) = (at for at in places if struct.pack("<Q", at) in pointers)
    return place


def change(path: Path, key: str, field: int, value: int) -> None:
    """Set eight bytes of a dataset's chunk index, and its checksum."""
    data, at = bytearray(path.read_bytes()), index_of(path, key)
    assert lookup3(bytes(data[at : at + _CHECKSUM])) == int.from_bytes(
        data[at + _CHECKSUM : at + _CHECKSUM + 4], "little"
    )
    struct.pack_into("<Q", data, at + field, value)
    checksum = lookup3(bytes(data[at : at + _CHECKSUM]))
    struct.pack_into("<I", data, at + _CHECKSUM, checksum)
    path.write_bytes(data)


def claim(path: Path, key: str, other: str) -> None:
    """Let an array's index claim the blocks of another's."""
    data, theirs = path.read_bytes(), index_of(path, other)
    change(path, key, _BLOCK, int.from_bytes(data[theirs + _BLOCK : theirs + _BLOCK + 8], "little"))


@pytest.mark.parametrize("other", ["scalars/step", "streams/gradients/step"])
def test_steps_that_lie_in_another_array(path: Path, other: str) -> None:
    """`open` looks at steps and then at scalars, `validate` the other way round."""
    claim(path, STEPS, other)
    with pytest.raises(FormatError, match="extensible array") as refused:
        trajfile.open(path)
    assert (refused.value.rule, refused.value.location) == ("SUM-003", f"/{STEPS}")
    for deep in (False, True):
        found = trajfile.validate(path, deep=deep)
        assert [(f.id, f.evidence["location"]) for f in found if f.severity == "error"] == [
            ("SUM-003", f"/{STEPS}")
        ]


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("streams/updates/float32", "streams/gradients/float32"),  # read after its owner
        ("streams/gradients/float32", "streams/updates/float32"),  # and before
    ],
)
def test_rows_that_lie_in_another_array(path: Path, key: str, other: str) -> None:
    claim(path, key, other)
    found = [f for f in trajfile.validate(path, deep=True) if f.severity == "error"]
    assert [(f.id, f.evidence["location"]) for f in found] == [("SUM-003", f"/{key}")]


@pytest.mark.parametrize("key", [STEPS, "commits", "manifest"])
def test_a_table_without_end(path: Path, key: str) -> None:
    """To ask the library for its size would take years."""
    whole = [f.id for f in trajfile.validate(path)]
    change(path, key, _HIGHEST, 2**48)
    line = "import sys, trajfile; run = trajfile.open(sys.argv[1]); print(len(run.scalars))"
    line += "; print(*[f.id for f in trajfile.validate(sys.argv[1])])"
    done = subprocess.run(
        [sys.executable, "-c", line, path],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["1", " ".join(whole)]


def test_an_index_is_found(path: Path) -> None:
    """The tests above change what they mean to change, and the file was sound before."""
    places = {index_of(path, key) for key in (STEPS, "commits", "streams/updates/float32")}
    assert len(places) == 3
    read_all(path)
    assert not [f for f in trajfile.validate(path, deep=True) if f.severity == "error"]
