"""Large rows are written in ways of their own, and lie in the file as small ones do."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from numcodecs.zstd import Zstd

import trajfile
from trajfile import recording
from trajfile.containers import ahead, checksum, hdf5, hdf5_direct, hdf5_lanes, store
from trajfile.containers.scattered import Scattered

ROOT = Path(__file__).parents[2]
DTYPES = [
    *(np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int64, np.uint8),
    *(ml_dtypes.float8_e4m3fn, ml_dtypes.int4),
]


@pytest.fixture(autouse=True)
def cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several chunks."""
    monkeypatch.setattr(store, "chunk_width", lambda columns: min(columns, 100) or 100)


@pytest.fixture
def large(cut: None, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What is recorded counts as large."""
    if not checksum.prepare():
        pytest.skip("without Numba the library writes them")
    monkeypatch.setattr(hdf5_direct, "DIRECT_BYTES", 0)
    monkeypatch.setattr(ahead, "_PARALLEL_BYTES", 0)
    monkeypatch.setattr(ahead, "_PARALLEL_PACKED", 0)
    monkeypatch.setattr(recording, "_LONG_BYTES", 0)
    return monkeypatch


def tensors(step: int, dtype: Any, columns: int) -> dict[str, np.ndarray]:
    """One that is not contiguous, one without axes, one of its own dtype, one that comes late."""
    rng = np.random.default_rng(step)
    values = np.frombuffer(rng.bytes(4 * columns * np.dtype(dtype).itemsize), dtype)
    parts = {
        "turned": values[: columns - 1].reshape(1, -1).T,
        "one": values[columns - 1 : columns].reshape(()),
        "other": rng.standard_normal((3, 5)),
    }
    if step >= 2:
        parts["late"] = values[columns : 2 * columns][::-1]
    return parts


def record(path: Path, dtype: Any, columns: int, **options: Any) -> Path:
    with trajfile.Writer(path, **options) as writer:
        writer.declare("updates", like=tensors(0, dtype, columns))
        for step in range(4):
            row = tensors(step, dtype, columns)
            some = {name: np.stack([value, value]) for name, value in row.items()}
            writer.append(step, params=row, gradient_samples=some, scalars={"loss": 1.0})
            if step == 3:
                writer.append(4, updates=row)
    return path


def chunks(path: Path) -> dict[tuple[str, tuple[int, ...]], tuple[int, bytes]]:
    """Every chunk of the lanes, as it lies in the file."""
    found = {}

    def look(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim == 2 and name.startswith("streams"):
            item[...]  # plain h5py verifies
            for number in range(item.id.get_num_chunks()):
                place = item.id.get_chunk_info(number).chunk_offset
                found[name, place] = item.id.read_direct_chunk(place)

    with h5py.File(path) as file:
        file.visititems(look)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [100, 333])
def test_chunks_are_what_the_library_makes(
    dtype: Any, columns: int, tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    written = []
    write = hdf5_direct.DirectWriter.write
    large.setattr(hdf5_direct.DirectWriter, "write", lambda *a: written.append(a[4]) or write(*a))
    directly = chunks(record(tmp_path / "directly.h5", dtype, columns))
    assert any(isinstance(values, Scattered) for values in written)
    queued = chunks(record(tmp_path / "queued.h5", dtype, columns, background=True))
    assert not isinstance(written[-1], Scattered)
    large.setattr(hdf5_direct.DirectWriter, "suits", lambda *a: False)
    by_library = chunks(record(tmp_path / "library.h5", dtype, columns))
    assert directly == queued == by_library
    assert len(directly) > 4 * (columns // 100)


def unpacked(path: Path) -> dict[tuple[str, tuple[int, ...]], bytes]:
    """What every chunk of the lanes holds, by other means than those that are tested."""
    found = {}
    with h5py.File(path) as file:
        for (name, place), (mask, stored) in chunks(path).items():
            assert mask == 0
            lane, packed = file[name], stored[:-4]
            item = lane.id.get_type().get_size()
            size = int(np.prod(lane.chunks)) * item
            planes = (
                zlib.decompress(packed) if lane.compression == "gzip" else Zstd().decode(packed)
            )
            assert len(planes) == size
            whole = np.frombuffer(planes, np.uint8).reshape(item, -1)
            found[name, place] = whole.T.tobytes()
    return found


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.uint8]
)
@pytest.mark.parametrize(("columns", "compression"), [(100, "zstd"), (333, "zstd"), (333, "gzip")])
def test_compressed_chunks_hold_what_the_library_puts_there(
    dtype: Any, columns: int, compression: str, tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    written = []
    write = hdf5_direct.DirectWriter.write
    large.setattr(hdf5_direct.DirectWriter, "write", lambda *a: written.append(a[4]) or write(*a))
    path = record(tmp_path / "directly.h5", dtype, columns, compression=compression)
    assert any(isinstance(values, Scattered) for values in written)
    with trajfile.open(path) as run:
        for step in range(4):
            row = tensors(step, dtype, columns)
            for name in row:
                at = step - 2 * (name == "late")
                assert run["params"][name][at : at + 1].tobytes() == row[name].tobytes()
    large.setattr(hdf5_direct.DirectWriter, "suits", lambda *a: False)
    by_library = record(tmp_path / "library.h5", dtype, columns, compression=compression)
    assert unpacked(path) == unpacked(by_library)


@pytest.mark.parametrize("threads", [1, 3])
def test_compressed_rows_are_written_over(
    threads: int, tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    large.setattr(ahead, "PACKERS", threads)
    path, values = tmp_path / "run.h5", np.random.default_rng(0).standard_normal((6, 250))
    with trajfile.Writer(path, compression="zstd") as writer:
        for step, row in enumerate(values[:3]):
            writer.append(step, params={"w": row.astype(np.float32)})
    with trajfile.Writer(path, resume_step=1, mode="a") as writer:
        for step, row in enumerate(values[3:], 1):
            writer.append(step, params={"w": row.astype(np.float32)})
    expected = values[[0, 3, 4, 5]].astype(np.float32)
    with trajfile.open(path) as run:
        np.testing.assert_array_equal(run["params"]["w"][:], expected)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["streams/params/float32"][:4], expected)
    assert not [f for f in trajfile.validate(path, deep=True) if f.severity == "error"]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.uint8])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_shards_are_what_small_rows_make(
    dtype: Any, compression: str | None, tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    def files(path: Path) -> dict[str, bytes]:
        return {
            str(file.relative_to(path)): file.read_bytes() for file in path.glob("streams/**/c.*")
        }

    found = files(record(tmp_path / "large.zarr", dtype, 333, compression=compression))
    large.undo()
    large.setattr(store, "chunk_width", lambda columns: min(columns, 100) or 100)
    assert found == files(record(tmp_path / "small.zarr", dtype, 333, compression=compression))


@pytest.mark.parametrize("layout", ["rows", "archive"])
@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_copies_are_read_by_a_reader_of_another_hand(
    layout: str, suffix: str, compression: str, tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    source = record(tmp_path / "run.h5", np.float32, 333)
    copy = tmp_path / f"copy{suffix}"
    trajfile.convert(source, copy, layout=layout, compression=compression)
    reader = ROOT / "tests/conformance/second_reader.py"
    done = subprocess.run(
        [sys.executable, reader],
        input=f"{source}\n{copy}\n",
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = (json.loads(line)["content"] for line in done.stdout.splitlines())
    assert first == second
    rows = [tensor for stream in first["streams"] for tensor in stream["tensors"]]
    assert len(rows) == 12


def test_a_block_of_rows_in_parts_is_what_it_is_laid_out() -> None:
    rng = np.random.default_rng(0)
    whole = rng.integers(0, 99, (3, 40), np.uint32)
    whole[:, :4] = whole[:, 10:13] = whole[:, 30:] = 0
    rows = Scattered(
        (3, 40),
        np.dtype(np.float32),
        [(n, whole[:, n:m].view(np.float32)) for n, m in ((4, 9), (9, 10), (13, 13), (13, 30))],
    )
    assert (len(rows), rows.nbytes) == (3, 480)
    for start in range(41):
        for stop in range(start, 41):
            out = np.full((2, stop - start), 7, np.uint32)
            rows.copy(slice(1, 3), slice(start, stop), out)
            np.testing.assert_array_equal(out, whole[1:, start:stop])


def test_what_is_built_ahead_comes_in_order_and_is_not_built_over() -> None:
    def build(number: int, memory: ahead.Bytes) -> ahead.Bytes:
        memory[:] = number
        return memory

    sizes = ((0, 4), (1, 4), (9, 2**22), (5, 2**10), (40, 2**16), (3, 2**20))
    for (count, size), packing in itertools.product(sizes, (False, True)):
        for number, memory in enumerate(ahead.built(build, count, size, packing=packing)):
            assert memory.shape == (size,)
            assert (memory == number).all()
        assert not count or number == count - 1


@pytest.mark.parametrize("packing", [False, True])
def test_what_cannot_be_built_is_said_in_its_turn(packing: bool, large: pytest.MonkeyPatch) -> None:
    def build(number: int, memory: ahead.Bytes) -> int:
        if number == 5:
            raise ValueError(number)
        return number

    found = []
    with pytest.raises(ValueError, match="5"):
        found += ahead.built(build, 9, 2**10, packing=packing)
    for number in ahead.built(build, 5, 2**10, packing=packing):
        found.append(number)
    assert found[-5:] == [0, 1, 2, 3, 4]
    assert not [t for t in threading.enumerate() if t.name == "trajfile-build"]


def test_what_is_left_half_way_keeps_its_memory() -> None:
    def some() -> Iterator[ahead.Bytes]:
        return ahead.built(lambda number, memory: memory, 9, 2**22)

    left = some()
    first = next(left)
    other = some()
    assert not any(np.shares_memory(first, memory) for memory in other)
    left.close()


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
@pytest.mark.parametrize("background", [False, True])
def test_a_tensor_without_elements_hides_none_in_whatever_order_they_come(
    suffix: str, background: bool, tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"run{suffix}"
    values, empty = np.arange(1.0, 251.0), np.empty((0, 3))
    row = {"first": values[:50], "empty": empty, "last": values}
    with trajfile.Writer(path, background=background) as writer:
        for step in range(2):
            writer.append(step, params=dict([*row.items()][:: 1 if step == 0 else -1]))
    with trajfile.open(path) as run:
        for name, value in row.items():
            for found in run["params"][name][:]:
                np.testing.assert_array_equal(found, value)


def test_shuffled_chunks_that_are_not_compressed_are_no_plain_ones(
    tmp_path: Path, large: pytest.MonkeyPatch
) -> None:
    """The format allows them, though trajfile makes none."""
    create = hdf5._create_array

    class Shuffling:
        DATASET_CREATE = h5py.h5p.DATASET_CREATE

        @staticmethod
        def create(kind: Any) -> Any:
            plist = h5py.h5p.create(kind)
            if kind is h5py.h5p.DATASET_CREATE:
                plist.set_shuffle()
            return plist

        def __getattr__(self, name: str) -> Any:
            return getattr(h5py.h5p, name)

    def shuffled(file: Any, spec: Any, compression: Any) -> None:
        with large.context() as one:
            if spec.lane:
                one.setattr(hdf5, "h5p", Shuffling())
            create(file, spec, compression)

    large.setattr(hdf5, "_create_array", shuffled)
    large.setattr(hdf5_lanes, "_DIRECT_BYTES", 0)
    path, values = tmp_path / "run.h5", np.random.default_rng(0).standard_normal((3, 250))
    with trajfile.Writer(path) as writer:
        for step, row in enumerate(values):
            writer.append(step, params={"w": row.astype(np.float32)})
    with h5py.File(path) as file:
        lane = file["streams/params/float32"]
        assert (lane.shuffle, lane.fletcher32, lane.compression) == (True, True, None)
        np.testing.assert_array_equal(lane[:, :250], values.astype(np.float32))
    with trajfile.open(path) as run:
        np.testing.assert_array_equal(run["params"]["w"][:], values.astype(np.float32))
    with trajfile.Writer(path, resume_step=1, mode="a") as writer:  # over what is there
        writer.append(1, params={"w": values[2].astype(np.float32)})
    with trajfile.open(path) as run:
        np.testing.assert_array_equal(run["params"]["w"][1], values[2].astype(np.float32))


ENDS = """
import sys
import numpy as np
import trajfile
from trajfile.containers import checksum

checksum.prepare()
writer = trajfile.Writer(sys.argv[1], background=True, queue_bytes=2**30)
rows = [np.full(3 * 2**20, step, np.float32) for step in range(8)]
for step, row in enumerate(rows):
    writer.append(step, params={"w": row})
"""


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_a_program_that_forgets_to_close_loses_nothing(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"run{suffix}"
    done = subprocess.run(
        [sys.executable, "-c", ENDS, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    with trajfile.open(path) as run:
        assert run["params"]["w"][:, -1].tolist() == list(range(8))


def test_a_disk_that_fills_up_amid_a_row(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
import numpy as np, trajfile
from trajfile.containers import checksum

checksum.prepare()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = trajfile.Writer(sys.argv[1])
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
for step in range(4):
    if step == 2:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 12_582_912 + 5_000_000, unlimited[1]))
    try:
        writer.append(step, params={"w": np.full(3 * 2**20, step, np.float32)})
    except trajfile.ResourceError as error:
        print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
writer.close()
"""
    path = tmp_path / "run.h5"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert (done.stderr, done.stdout.count("the disk is full")) == ("", 1)
    with trajfile.open(path) as run:
        assert run.steps("params").tolist() == [0, 1, 3]
        assert run["params"]["w"][:, -1].tolist() == [0, 1, 3]
    assert not [f for f in trajfile.validate(path, deep=True) if f.severity == "error"]
