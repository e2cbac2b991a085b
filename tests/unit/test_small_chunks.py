"""Many small chunks read at once are what the library reads, and are verified as strictly."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import trajfile
from tests.unit.blocks import read_block
from trajfile.containers import checksum, hdf5_lanes, hdf5_plain, open_container

ROWS = 60
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8]


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    if not checksum.prepare():
        pytest.skip("without Numba the library reads them")
    monkeypatch.setattr(hdf5_lanes, "_PARALLEL_BYTES", 0)
    monkeypatch.setattr(hdf5_lanes, "_SHARE_BYTES", 20_000)


def record(path: Path, dtype: object, columns: int = 501, gap: int = 0) -> Path:
    with trajfile.Writer(path) as writer:
        for step in range(ROWS):
            rng = np.random.default_rng(step)
            row = (100 * rng.standard_normal(columns)).astype(dtype)
            other = rng.integers(0, 9, gap or 7, np.uint64)  # in a lane of its own, in between
            writer.append(step, params={"w": row, "g": other})
    return path


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [0, 20_000])
def test_blocks_are_what_the_library_reads(
    dtype: object, gap: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(tmp_path / "run.h5", dtype, gap=gap)
    used = []
    gather = hdf5_plain.gather
    monkeypatch.setattr(hdf5_plain, "gather", lambda *a: used.append(1) or gather(*a))
    blocks = [(slice(0, ROWS), slice(0, 501)), (slice(3, 47), slice(100, 333))]
    found = [read_block(path, *block) for block in blocks]
    assert bool(used) == (np.dtype(dtype).itemsize > 1)  # 501 bytes are no 16-bit words
    monkeypatch.setattr(hdf5_lanes.Lane, "_row_by_row", lambda lane, out: False)
    for block, values in zip(blocks, found, strict=True):
        np.testing.assert_array_equal(values, read_block(path, *block))


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path) -> None:
    path = record(tmp_path / "run.h5", np.float32)
    whole = path.read_bytes()
    row = read_block(path, slice(30, 31), slice(0, 501)).tobytes()
    start = whole.find(row)
    for place in (
        start,
        start + 1001,
        start + len(row) - 1,
        start + len(row),
        start + len(row) + 3,
    ):
        content = bytearray(whole)
        content[place] ^= 4
        path.write_bytes(content)
        with pytest.raises(trajfile.FormatError, match="fails its checksum"):
            read_block(path, slice(0, ROWS), slice(10, 20))
        read_block(path, slice(31, ROWS), slice(0, 501))


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = record(tmp_path / "run.h5", np.float32)
    container = open_container(path)
    out = np.zeros((ROWS, 501), np.float32)
    container.read("params", "float32", slice(0, 1), slice(0, 501), out[:1])
    row = read_block(path, slice(ROWS - 1, ROWS), slice(0, 501)).tobytes()
    with path.open("r+b") as file:
        file.truncate(path.read_bytes().rfind(row) + 100)
    with pytest.raises(trajfile.FormatError, match="the file ends within a chunk"):
        container.read("params", "float32", slice(0, ROWS), slice(0, 501), out)
    container.close()


def test_a_read_that_was_interrupted_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(tmp_path / "run.h5", np.float32)
    expected = read_block(path, slice(0, ROWS), slice(10, 333))
    kernels = hdf5_plain._kernels()
    gather, told = kernels.gather, iter([2 * 5, 2 * 9, 2 * 0])

    def interrupted(descriptor: int, places: object, *rest: object) -> int:
        """Stop before a chunk, as when a signal comes, after reading those before it."""
        found = next(told, None)
        if found is None or found // 2 >= len(places):
            return gather(descriptor, places, *rest)
        assert gather(descriptor, places[: found // 2], *rest) == -1
        return found

    monkeypatch.setattr(kernels, "gather", interrupted)
    np.testing.assert_array_equal(read_block(path, slice(0, ROWS), slice(10, 333)), expected)
    assert next(told, None) is None


def test_what_the_system_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = record(tmp_path / "run.h5", np.float32)

    def broken(*args: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(hdf5_plain._kernels(), "gather", lambda *args: 2 * 3)
    monkeypatch.setattr(hdf5_plain.os, "preadv", broken)
    with pytest.raises(trajfile.Damaged, match="or cannot be read"):
        read_block(path, slice(0, ROWS), slice(0, 501))


def test_without_a_compiler_that_compiles_the_library_reads() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "from trajfile.containers import checksum as c; print(c.prepare())"],
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout.strip() == "False", said.stderr
