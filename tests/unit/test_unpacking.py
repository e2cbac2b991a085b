"""zstd chunks decoded by compiled loops are those decoded one by one, and as strictly verified."""

from __future__ import annotations

from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest

import trajfile
from tests.unit.blocks import chunks_of, read_block
from trajfile.containers import checksum, hdf5_lanes, open_container, unpacking

ROWS = 24
COLUMNS = 5003
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int8]


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    if not checksum.prepare() or not unpacking.unpackable(4, shuffled=True):
        pytest.skip("without Numba, or a decoder that it can call, chunks are decoded one by one")
    monkeypatch.setattr(hdf5_lanes, "_PARALLEL_BYTES", 0)
    monkeypatch.setattr(unpacking, "BATCH_BYTES", 40_000)


class Taken:
    """Counts the batches that compiled loops take."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = self.refused = 0
        take = unpacking.Chunks.take

        def counting(chunks: unpacking.Chunks, descriptor: int, batch: slice) -> bool:
            found = take(chunks, descriptor, batch)
            self.count += 1
            self.refused += not found
            return found

        monkeypatch.setattr(unpacking.Chunks, "take", counting)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    return Taken(monkeypatch)


def record(path: Path, dtype: object) -> Path:
    with trajfile.Writer(path, compression="zstd") as writer:
        for step in range(ROWS):
            rng = np.random.default_rng(step)
            row = (100 * rng.standard_normal(COLUMNS)).astype(dtype)
            row[100 : 100 + 40 * step] = 0  # so that sizes differ, odd ones among them
            writer.append(step, params={"w": row})
    return path


BLOCKS = [
    (slice(0, ROWS), slice(0, COLUMNS)),
    (slice(3, 20), slice(1000, 1001)),
    (slice(5, 19), slice(17, 4001)),
    (slice(7, 8), slice(4990, COLUMNS)),
]


@pytest.mark.parametrize("layout", ["rows", "archive"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_are_what_is_decoded_one_by_one(
    dtype: object, layout: str, tmp_path: Path, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(tmp_path / "run.h5", dtype)
    if layout == "archive":
        trajfile.convert(path, tmp_path / "packed.h5", layout="archive", compression="zstd")
        path = tmp_path / "packed.h5"
    found = [read_block(path, *block) for block in BLOCKS]
    assert bool(taken.count) == (np.dtype(dtype).itemsize < 8)
    assert not taken.refused
    monkeypatch.setattr(hdf5_lanes.Lane, "_unpacked", lambda *block: False)
    for block, values in zip(BLOCKS, found, strict=True):
        np.testing.assert_array_equal(values, read_block(path, *block))
    with h5py.File(path) as file:
        stored = file["streams/params"]
        lane = next(stored[name] for name in stored if name not in {"step", "sample"})
        if dtype is np.float32:
            np.testing.assert_array_equal(found[0].view(np.float32), lane[:ROWS])


def test_sizes_are_even_and_odd(tmp_path: Path) -> None:
    path = record(tmp_path / "run.h5", np.float32)
    assert {size % 2 for _, size in chunks_of(path)} == {0, 1}


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path, taken: Taken) -> None:
    path = record(tmp_path / "run.h5", np.float32)
    whole = path.read_bytes()
    odd = next(row for row, (_, size) in enumerate(chunks_of(path)) if size % 2)
    even = next(row for row, (_, size) in enumerate(chunks_of(path)) if not size % 2)
    for row in (odd, even):
        start, size = chunks_of(path)[row]
        for place in (0, 1, size // 2, size - 6, size - 5, *range(size - 4, size)):
            content = bytearray(whole)
            content[start + place] ^= 16
            path.write_bytes(content)
            with pytest.raises(trajfile.Damaged, match="a chunk fails its checksum") as caught:
                read_block(path, slice(0, ROWS), slice(0, COLUMNS))
            assert caught.value.rule == "SUM-003"
            read_block(path, slice(row + 1, ROWS), slice(0, COLUMNS))
            path.write_bytes(whole)
    assert taken.refused == 2 * 9


def replace(path: Path, row: int, payload: bytes) -> None:
    """Put other bytes, with a checksum that holds, in place of a chunk."""
    behind = checksum.fletcher32(np.frombuffer(payload, np.uint8)).to_bytes(4, "little")
    with h5py.File(path, "r+") as file:
        file["streams/params/float32"].id.write_direct_chunk((row, 0), payload + behind)


def test_what_is_no_chunk_is_refused_in_the_same_words(
    tmp_path: Path, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numcodecs.zstd import Zstd

    def packed(size: int) -> bytes:
        return bytes(Zstd(1).encode(np.zeros(size, np.uint8)))

    sound, size = record(tmp_path / "run.h5", np.float32).read_bytes(), 4 * COLUMNS
    path = tmp_path / "other.h5"
    bombs = [packed(2**28), packed(size + 1), packed(size - 1), packed(size)[:-1]]
    for payload in (b"", b"\x28\xb5\x2f\xfd", bytes(50), packed(size) + bytes(3), *bombs):
        path.write_bytes(sound)
        replace(path, 5, payload)
        words = []
        for compiled in (True, False):
            with monkeypatch.context() as patched:
                if not compiled:
                    patched.setattr(hdf5_lanes.Lane, "_unpacked", lambda *block: False)
                with pytest.raises(trajfile.Damaged) as caught:
                    read_block(path, slice(0, ROWS), slice(0, COLUMNS))
            words.append((str(caught.value), caught.value.rule))
        assert words[0] == words[1]
        assert words[0][1] == "SUM-003"
    assert taken.refused


def test_a_file_that_was_cut_is_refused(tmp_path: Path) -> None:
    path = record(tmp_path / "run.h5", np.float32)
    container = open_container(path)
    out = np.zeros((ROWS, COLUMNS), np.float32)
    container.read("params", "float32", slice(0, 1), slice(0, COLUMNS), out[:1])
    address, size = chunks_of(path)[-1]
    with path.open("r+b") as file:
        file.truncate(address + size - 1)
    with pytest.raises(trajfile.Damaged, match="the file ends within a chunk"):
        container.read("params", "float32", slice(0, ROWS), slice(0, COLUMNS), out)
    container.close()
