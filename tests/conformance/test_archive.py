"""Archives: chunks that span steps, in both containers, sound and refused where they must be."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - the stock library needs its filters
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

import trajfile
from tests.conformance.damage import read_all
from tests.contract.runs import Expected, random_rows, read, stream
from tests.unit.every_kind import record
from trajfile.containers import create, hdf5_lanes, open_container, shards, tiles, zarr_folder_store
from trajfile.containers import pieces as pieces_of
from trajfile.containers.base import Commit
from trajfile.containers.digest import digest
from trajfile.dtypes import EXTENDED, ITEM_SIZES, bits_dtype
from trajfile.schema import Manifest

SAMPLES = Path(__file__).parents[2] / "sample_data"
SUFFIXES = [".h5", ".zarr"]
COMPRESSIONS = ["zstd", "gzip", "none"]


def archive(source: Path, suffix: str, compression: str | None = None) -> Path:
    out = source.with_name(f"archive{suffix}")
    trajfile.convert(source, out, layout="archive", compression=compression)
    return out


def digest_of(path: Path) -> str:
    container = open_container(path)
    try:
        return digest(container)
    finally:
        container.close()


def wide(path: Path) -> Expected:
    """37 rows of several tiles, in which tensors join within tiles and at their edges."""
    rng = np.random.default_rng(1)
    tensors = [("a", (20_000,), "float32"), ("h", (33,), "bfloat16")]
    late = {9: ("b", (9_000,), "float32", 9), 16: ("c", (1,), "float32", 16)}
    manifest = Manifest((stream("params", *tensors),), ("loss",))
    first, commits = manifest, []
    for row in range(37):
        revised = None
        if row in late:
            tensors.append(late[row])
            revised = manifest = Manifest((stream("params", *tensors),), ("loss",))
        rows = {"params": random_rows(manifest.streams[0], rng)}
        commits.append(Commit(3 * row, rows, {"loss": 1.0 / (row + 1)}, revised))
    container = create(path, first)
    for commit in commits:
        container.append(commit)
    container.close()
    return Expected.of(first, commits)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("run", "compression"), [(record, "zstd"), *((wide, packed) for packed in COMPRESSIONS)]
)
def test_an_archive_holds_every_bit(
    tmp_path: Path, run: object, suffix: str, compression: str
) -> None:
    expected = run(tmp_path / "run.h5")
    out = archive(tmp_path / "run.h5", suffix, compression)
    assert digest_of(out) == digest_of(tmp_path / "run.h5")
    container = open_container(out)
    expected.manifest = container.manifest()
    expected.check(container)
    rng = np.random.default_rng(2)
    for spec in container.manifest().streams:  # blocks that cut tiles anywhere
        for lane, columns in spec.lanes.items():
            whole = expected.lane(spec.name, lane)
            for _ in range(4):
                a, b = sorted(rng.integers(0, len(whole) + 1, 2).tolist())
                c, d = sorted(rng.integers(0, columns + 1, 2).tolist())
                block = read(container, spec.name, lane, slice(a, b), slice(c, d))
                np.testing.assert_array_equal(block, whole[a:b, c:d], strict=True)
    container.close()
    assert trajfile.validate(out, deep=True) == trajfile.validate(tmp_path / "run.h5", deep=True)
    trajfile.convert(out, tmp_path / "back.h5")
    assert digest_of(tmp_path / "back.h5") == digest_of(tmp_path / "run.h5")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_stock_libraries_read_archives(tmp_path: Path, compression: str) -> None:
    expected = record(tmp_path / "run.h5")
    root = zarr.open_group(archive(tmp_path / "run.h5", ".zarr", compression), mode="r")
    assert root.attrs["requires"] == ["archive"]
    with h5py.File(archive(tmp_path / "run.h5", ".h5", compression), "r") as file:
        assert file.attrs["requires"].tolist() == [b"archive"]
        for lane in ITEM_SIZES:
            known = expected.lane("params", lane)
            array = root[f"streams/params/{lane}"]
            assert array.dtype == (f"uint{8 * ITEM_SIZES[lane]}" if lane in EXTENDED else lane)
            np.testing.assert_array_equal(array[:].view(bits_dtype(lane)), known)
            if lane not in {"bfloat16", "float8_e5m2"}:
                found = file[f"streams/params/{lane}"][:]
                np.testing.assert_array_equal(found.view(bits_dtype(lane)), known)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_cannot_be_appended_to(tmp_path: Path, suffix: str) -> None:
    record(tmp_path / "run.h5")
    out = archive(tmp_path / "run.h5", suffix)
    with pytest.raises(trajfile.UsageError, match=r"is an archive: .*`trajfile convert .* -o run"):
        trajfile.Writer(out, "a")
    assert digest_of(out) == digest_of(tmp_path / "run.h5")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_reader_that_does_not_know_it_refuses(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(tmp_path / "run.h5")
    out = archive(tmp_path / "run.h5", suffix)
    monkeypatch.setattr("trajfile.containers.identity.KNOWN_FEATURES", frozenset())
    with pytest.raises(trajfile.UnsupportedVersion, match=r"features .* does not know .archive."):
        trajfile.open(out)
    assert [f.id for f in trajfile.validate(out)] == ["CORE-005"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_chunks_of_several_rows_need_the_feature(tmp_path: Path, suffix: str) -> None:
    record(tmp_path / "run.h5")
    out = archive(tmp_path / "run.h5", suffix)
    if suffix == ".h5":
        with h5py.File(out, "r+") as file:
            del file.attrs["requires"]
            file.attrs["requires"] = np.array([], np.bytes_)
    else:
        document = json.loads((out / "zarr.json").read_text())
        document["attributes"]["requires"] = []
        (out / "zarr.json").write_text(json.dumps(document))
    found = trajfile.validate(out)
    assert [f.id for f in found] in (["H5-010"], ["ZR-007"])


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_flipped_byte_of_a_lane_is_found(tmp_path: Path, suffix: str, compression: str) -> None:
    wide(tmp_path / "run.h5")
    out = archive(tmp_path / "run.h5", suffix, compression)
    sound = digest_of(out)
    rng = np.random.default_rng(3)
    if suffix == ".h5":
        files = [(out, *place) for place in stored_chunks(out)]
    else:
        lanes = (out / "streams/params/float32").glob("c.*")
        files = [(path, 0, path.stat().st_size) for path in lanes]
    for path, offset, size in files:
        data = bytearray(path.read_bytes())
        at = offset + int(rng.integers(size))
        data[at] ^= 1 << int(rng.integers(8))
        before = path.read_bytes()
        path.write_bytes(data)
        with pytest.raises(trajfile.Damaged) as caught:
            read_all(out)
        assert caught.value.rule in {"SUM-002", "SUM-003"}
        assert caught.value.location == "/streams/params/float32"
        found = {f.id for f in trajfile.validate(out, deep=True) if f.severity == "error"}
        assert found <= {"SUM-002", "SUM-003"}
        assert found
        path.write_bytes(before)
    assert digest_of(out) == sound


def stored_chunks(path: Path) -> list[tuple[int, int]]:
    with h5py.File(path, "r") as file:
        places: list[tuple[int, int]] = []
        lane = file["streams/params/float32"].id
        lane.chunk_iter(lambda chunk: places.append((chunk.byte_offset, chunk.size)))
        return places


def test_a_missing_tile_is_missed(tmp_path: Path) -> None:
    wide(tmp_path / "run.h5")
    out = archive(tmp_path / "run.h5", ".zarr")
    (out / "streams/params/float32/c.1.0").unlink()
    container = open_container(out)
    with pytest.raises(trajfile.Damaged, match="committed row 20 is missing") as caught:
        read(container, "params", "float32", slice(20, 22))
    assert caught.value.rule == "SUM-002"
    read(container, "params", "float32", slice(0, 16))
    container.close()


def test_a_blosc_header_that_lies_is_refused(tmp_path: Path) -> None:
    from trajfile.containers.packing import PackingError, compress, decompress

    data = np.arange(5000, dtype=np.uint32)
    packed = np.frombuffer(compress(data, "blosc"), np.uint8)
    out = np.empty(data.nbytes, np.uint8)
    decompress(packed, "blosc", out)
    np.testing.assert_array_equal(out.view(np.uint32), data)
    lies = {0: 3, 2: 0x21, 4: 1, 6: 255, 8: 0, 11: 127, 12: 7}
    for place, value in lies.items():
        wrong = packed.copy()
        wrong[place] = value if wrong[place] != value else value ^ 1
        with pytest.raises(PackingError):
            decompress(wrong, "blosc", np.empty_like(out))
    for length in (0, 3, 15, 16, len(packed) - 1):
        with pytest.raises(PackingError):
            decompress(packed[:length].copy(), "blosc", np.empty_like(out))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_analysis_is_that_of_the_rows_bit_for_bit(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(4)
    theta = rng.standard_normal(40_000).astype(np.float32)
    with trajfile.Writer(tmp_path / f"run{suffix}", optimizer={"name": "SGD"}) as writer:
        for step in range(20):
            slope = theta + rng.standard_normal(40_000).astype(np.float32)
            given = {"a": theta[:30_000], "b": theta[30_000:].reshape(100, 100)}
            slopes = {"a": slope[:30_000], "b": slope[30_000:].reshape(100, 100)}
            scalars = {"loss": 1.0 / (1 + step), "learning_rate": 0.1}
            writer.append(step, params=given, gradients=slopes, scalars=scalars)
            theta = theta - np.float32(0.1) * slope
    out = archive(tmp_path / f"run{suffix}", suffix)
    metrics = ["norms", "geometry"]
    for selection in ({}, {"steps": "3:20:2", "params": ["b"]}):
        rows, tiles = (
            trajfile.analyze(path, metrics, "cpu", memory="64MiB", **selection).to_dict()["metrics"]
            for path in (tmp_path / f"run{suffix}", out)
        )
        assert tiles == rows


def test_killed_archives_go_on_like_rows(tmp_path: Path) -> None:
    from trajfile.containers import pieces

    expected = wide(tmp_path / "run.h5")

    def stop(done: int, total: int) -> None:
        if done > total / 4:
            raise KeyboardInterrupt

    for suffix in SUFFIXES:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(pieces, "PIECE_BYTES", 2**17)
            patched.setattr("trajfile.unfinished.PIECE_BYTES", 2**17)
            out = tmp_path / f"out{suffix}"
            with pytest.raises(KeyboardInterrupt):
                trajfile.convert(tmp_path / "run.h5", out, layout="archive", progress=stop)
            done = trajfile.convert(tmp_path / "run.h5", out, layout="archive")
        assert 0 < done.resumed_bytes < done.raw_bytes
        container = open_container(out)
        expected.manifest = container.manifest()
        expected.check(container)
        container.close()


class Decoded:
    """Counts the chunks that are decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.count = 0
        for module, name in ((hdf5_lanes, "decode_chunk"), (shards, "_read_chunk")):
            monkeypatch.setattr(module, name, self._counting(getattr(module, name)))

    def _counting(self, function: Callable[..., None]) -> Callable[..., None]:
        def counted(*args: object) -> None:
            self.count += 1  # threads may miss one another: see `alone`
            function(*args)

        return counted


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks are read one at a time, so that they can be counted."""
    monkeypatch.setattr(hdf5_lanes, "_PARALLEL_BYTES", 2**60)
    monkeypatch.setattr(zarr_folder_store, "_PARALLEL_BYTES", 2**60)


def tall(path: Path) -> NDArray[np.float32]:
    """40 rows of three tiles across and three down, of which the last is cut."""
    rows = np.random.default_rng(3).standard_normal((40, 40_000)).astype(np.float32)
    with trajfile.Writer(path) as writer:
        for step, row in enumerate(rows):
            writer.append(step, params={"w": row[:30_000], "v": row[30_000:]})
    return rows


#: What may be kept in memory and on disk, and whether that is enough for tiles in order.
ROOM = [(2**26, 2**32, True), (0, 2**32, True), (2**20, 0, False), (0, 0, False)]


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("memory", "disk", "enough"), ROOM)
def test_rows_in_order_decode_each_tile_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    memory: int,
    disk: int,
    enough: bool,
) -> None:
    rows = tall(tmp_path / "run.h5")
    expected = digest_of(tmp_path / "run.h5")
    out = archive(tmp_path / "run.h5", suffix)
    monkeypatch.setattr(tiles, "MEMORY_BYTES", memory)
    monkeypatch.setattr(tiles, "DISK_BYTES", disk)
    decoded = Decoded(monkeypatch)
    with trajfile.open(out) as run:
        held = run["params"]["w"]
        found = [held[row] for row in range(40)]
        assert (np.stack(found) == rows[:, :30_000]).all()
        assert decoded.count == 9 if enough else decoded.count > 9  # it lies in all of them
        kept = run.container._tiles
        assert (kept._held, kept._memory, kept._disk) == ({}, 0, 0)
    decoded.count = 0
    monkeypatch.setattr(pieces_of, "PIECE_BYTES", 5 * 40_000 * 4)  # five rows at a time
    assert digest_of(out) == expected
    assert decoded.count == 9 if enough else decoded.count > 9
    decoded.count = 0
    monkeypatch.setattr(pieces_of, "PIECE_BYTES", 50_000)  # a part of a row
    assert digest_of(out) == expected
    assert decoded.count == 9 if enough else decoded.count > 9


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_in_any_order_are_what_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    rows = tall(tmp_path / "run.h5")
    out = archive(tmp_path / "run.h5", suffix)
    monkeypatch.setattr(tiles, "MEMORY_BYTES", 2**21)
    rng = np.random.default_rng(4)
    blocks = []
    for _ in range(120):
        first, last = sorted(rng.integers(0, 41, 2).tolist())
        left, right = sorted(rng.integers(0, 40_001, 2).tolist())
        blocks.append((slice(first, last), slice(left, right)))
    container = open_container(out)
    lane = container.manifest().by_name["params"]
    assert [t.name for t in lane.tensors] == ["w", "v"]

    def read(block: tuple[slice, slice]) -> None:
        where, columns = block
        found = np.empty((where.stop - where.start, columns.stop - columns.start), np.float32)
        container.read("params", "float32", where, columns, found)
        assert (found == rows[where, columns]).all()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read, blocks))
    container.close()
    assert (container._tiles._held, container._tiles._memory, container._tiles._disk) == ({}, 0, 0)


def test_without_room_on_the_disk_rows_are_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tall(tmp_path / "run.h5")
    out = archive(tmp_path / "run.h5", ".h5")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tiles, "MEMORY_BYTES", 0)
    monkeypatch.setattr(tiles.os, "posix_fallocate", full)
    with trajfile.open(out) as run:
        assert (np.stack([run["params"]["w"][row] for row in range(40)]) == rows[:, :30_000]).all()
