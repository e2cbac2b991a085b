"""The checksum of HDF5's metadata, against its definition's own vectors and the library."""

from __future__ import annotations

import struct
from pathlib import Path

import h5py
import pytest

from tests.conformance.damage import flip, small_run
from trajfile.containers import open_container
from trajfile.containers.hdf5_resume import clear_writer_mark, put_back
from trajfile.containers.lookup3 import lookup3
from trajfile.errors import Damaged, FormatError


def test_lookup3_is_that_of_its_author() -> None:
    # From the comments of lookup3.c: hashlittle("Four score and seven years ago", 30, 0).
    assert lookup3(b"Four score and seven years ago") == 0x17770551


@pytest.mark.parametrize("objects", range(12))
def test_lookup3_is_that_of_the_library(tmp_path: Path, objects: int) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver=("v110", "v110")) as file:
        for number in range(objects):
            file[f"data{number}"] = range(number)
    data = (tmp_path / "x.h5").read_bytes()
    assert lookup3(data[:44]) == struct.unpack_from("<I", data, 44)[0]


def test_the_mark_of_a_writer_can_be_put_back(tmp_path: Path) -> None:
    path = small_run(tmp_path / "run.h5")
    closed = path.read_bytes()
    marked = bytearray(closed)
    marked[11] = 0x05
    marked[44:48] = lookup3(bytes(marked[:44])).to_bytes(4, "little")
    path.write_bytes(marked)
    before = clear_writer_mark(path)
    assert path.read_bytes() == closed
    put_back(path, before)
    assert path.read_bytes() == marked
    container = open_container(path, writable=True)
    assert len(container.commits()) == 3
    container.close()


def test_a_superblock_that_is_damaged_is_left_alone(tmp_path: Path) -> None:
    path = small_run(tmp_path / "run.h5")
    flip(path, 40)
    damaged = path.read_bytes()
    with pytest.raises(Damaged, match="superblock fails its checksum"):
        clear_writer_mark(path)
    assert path.read_bytes() == damaged
    with pytest.raises(FormatError):
        open_container(path, writable=True)
