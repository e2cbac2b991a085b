"""Compressed HDF5 chunks are decoded outside of the library: the same bits, and no bombs."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.damage import chunk_offset, flip, read_all, refusal, small_run
from tests.hostile.make import packed
from trajfile.containers import checksum, hdf5_lanes
from trajfile.containers.checksum import fletcher32, fletcher32_by_library, summed
from trajfile.errors import Damaged


def fletcher32_word_by_word(data: bytes) -> int:
    low = high = 0
    padded = data + b"\0" * (len(data) % 2)
    for start in range(0, len(padded), 2):
        low += int.from_bytes(padded[start : start + 2], "big")
        high += low
    return ((high % 65535 or 65535 * (high > 0)) << 16) | (low % 65535 or 65535 * (low > 0))


BYTES = st.binary(max_size=1500) | st.sampled_from(
    [b"\xff" * 700, b"\xff" * 70_001, b"\0" * 9, b"\0" * 2000, b"\xff\xff", b"\xff", b""]
)


@given(BYTES)
def test_fletcher32_is_the_definition(data: bytes) -> None:
    assert fletcher32_by_library(np.frombuffer(data, np.uint8)) == fletcher32_word_by_word(data)


@settings(deadline=None)  # the first call compiles
@given(BYTES)
def test_compiled_fletcher32_is_the_definition(data: bytes) -> None:
    pytest.importorskip("numba")
    assert checksum.prepare()
    assert fletcher32(np.frombuffer(data, np.uint8)) == fletcher32_word_by_word(data)


@pytest.mark.parametrize("size", [1, 2, 3, 511, 513, 719, 720, 65537, 200_001, 2_200_001])
def test_fletcher32_is_that_of_the_library(tmp_path: Path, size: int) -> None:
    pytest.importorskip("numba")
    assert checksum.prepare()
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    data[: size // 2] |= 0xF0  # sums that go round often
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", data=data, chunks=(size,), fletcher32=True)
        _, stored = dataset.id.read_direct_chunk((0,))
    expected = int.from_bytes(stored[-4:], "little")
    assert fletcher32(data) == fletcher32_by_library(data) == expected
    assert summed(data.tobytes()) == stored


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read small chunks as large ones are: where they lie, without the library."""
    pytest.importorskip("numba")
    assert checksum.prepare()
    monkeypatch.setattr(hdf5_lanes, "_DIRECT_BYTES", 0)


@pytest.mark.usefixtures("direct")
@pytest.mark.parametrize("where", [0, 99, 11_999, 12_003])
def test_a_flipped_bit_of_a_chunk_read_where_it_lies(tmp_path: Path, where: int) -> None:
    path = small_run(tmp_path / "run.h5")
    read_all(path)
    flip(path, chunk_offset(path, "streams/params/float32", 2) + where)
    found = refusal(path)
    assert isinstance(found, Damaged)
    assert found.rule == "SUM-003"
    assert "a chunk fails its checksum" in str(found)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_flipped_bit(tmp_path: Path, compression: str) -> None:
    path = small_run(tmp_path / "run.h5", compression=compression)
    flip(path, chunk_offset(path, "streams/params/float32", 2) + 99)
    found = refusal(path)
    assert isinstance(found, Damaged)
    assert found.rule == "SUM-003"
    assert "a chunk fails its checksum" in str(found)


def replace_chunk(path: Path, payload: bytes) -> None:
    """Put other compressed bytes, with a checksum that holds, in place of row 1."""
    checksum = fletcher32(np.frombuffer(payload, np.uint8)).to_bytes(4, "little")
    with h5py.File(path, "r+") as file:
        file["streams/params/float32"].id.write_direct_chunk((1, 0), payload + checksum)


@pytest.mark.parametrize("size", [11_999, 12_001, 600_000_000])
def test_a_chunk_that_inflates_to_another_size(tmp_path: Path, size: int) -> None:
    path = small_run(tmp_path / "run.h5", compression="gzip")
    bomb = packed("zlib", size)
    assert len(bomb) < 600_000
    replace_chunk(path, bomb)
    found = refusal(path)
    assert found.rule == "SUM-003"
    assert "cannot be decompressed" in str(found)


def test_a_chunk_that_is_no_stream(tmp_path: Path) -> None:
    for compression in ("gzip", "zstd"):
        path = small_run(tmp_path / f"{compression}.h5", compression=compression)
        for junk in (b"", b"\x28\xb5\x2f\xfd", bytes(50), zlib.compress(bytes(12_000))[:-4]):
            replace_chunk(path, junk)
            assert refusal(path).rule == "SUM-003"


BLOCKED = """
import sys
sys.modules["hdf5plugin"] = None  # as if it were not installed
from tests.conformance.damage import SMALL, read_all
from trajfile.containers import create, open_container
from trajfile.errors import UsageError
read_all(sys.argv[1])
for act in (lambda: create(sys.argv[2], SMALL, compression="zstd"),
            lambda: open_container(sys.argv[1], writable=True)):
    try:
        act()
    except UsageError as error:
        print(error)
"""


def test_zstd_needs_its_extra_only_for_writing(tmp_path: Path) -> None:
    path = small_run(tmp_path / "run.h5", compression="zstd")
    ended = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(path), str(tmp_path / "new.h5")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    assert len(lines) == 2
    assert all("install trajfile[hdf5-codecs]" in line for line in lines)
    assert not (tmp_path / "new.h5").exists()
    small_run(tmp_path / "again.h5", compression="zstd")


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
@pytest.mark.parametrize("count", [1, 7, 64, 4099])
def test_unshuffled_compiled_or_not_is_what_was_shuffled(dtype: type, count: int) -> None:
    pytest.importorskip("numba")
    info = np.iinfo(dtype)
    values = np.random.default_rng(count).integers(0, info.max, count, dtype, endpoint=True)
    planes = np.ascontiguousarray(values.view(np.uint8).reshape(count, -1).T)
    assert checksum.prepare()
    for loops in (checksum._unshuffle, {}):
        out = np.zeros(count, dtype)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(checksum, "_unshuffle", loops)
            checksum.unshuffle(planes, out)
        assert (out == values).all()
