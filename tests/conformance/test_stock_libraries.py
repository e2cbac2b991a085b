"""Our files are those of HDF5 and Zarr: the stock libraries read them, and we read theirs."""

from __future__ import annotations

from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
import zarr

from tests.conformance.damage import read_all
from tests.contract.runs import EVERY_DTYPE, Expected, every_dtype_run, random_rows, stream
from trajfile.containers import create, open_container
from trajfile.containers.base import Commit, Rows
from trajfile.dtypes import EXTENDED, ITEM_SIZES, bits_dtype
from trajfile.schema import ABSENT_BITS, Manifest


def written(path: Path, compression: str | None) -> Expected:
    commits = every_dtype_run()
    container = create(path, EVERY_DTYPE, compression=compression)
    for commit in commits:
        container.append(commit)
    container.close()
    return Expected.of(EVERY_DTYPE, commits)


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_zarr_python_reads_every_bit(tmp_path: Path, compression: str | None) -> None:
    expected = written(tmp_path / "run.zarr", compression)
    root = zarr.open_group(tmp_path / "run.zarr", mode="r")
    for spec in expected.manifest.streams:
        group = root[f"streams/{spec.name}"]
        steps = expected.steps.get(spec.name, [])
        assert group["step"][:].tolist() == steps
        for lane, columns in spec.lanes.items():
            array = group[lane]
            assert array.attrs["dtype"] == lane
            assert array.shape == (len(steps), columns)
            name = f"uint{8 * ITEM_SIZES[lane]}" if lane in EXTENDED else lane
            assert array.dtype == np.dtype(name)
            found = array[:]
            known = expected.lane(spec.name, lane)
            if spec.name == "gradients":  # columns that joined at row 3 show the fill value
                found, known = found[3:], known[3:]
            np.testing.assert_array_equal(found.view(bits_dtype(lane)), known)
    values = root["scalars/value"][:]
    np.testing.assert_array_equal(values.view(np.uint64), expected.scalar_bits())
    assert root["scalars/value"].fill_value.view(np.uint64) == ABSENT_BITS
    assert root["commits"].shape == (10, 8 + 2 * 4)


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_rows_that_zarr_python_wrote(tmp_path: Path, compression: str | None) -> None:
    manifest = Manifest((stream("params", ("w", (300_001,), "float32")),))
    rng = np.random.default_rng(29)
    commit = Commit(0, {"params": random_rows(manifest.streams[0], rng)})
    container = create(tmp_path / "run.zarr", manifest, compression=compression)
    container.append(commit)
    container.close()
    (shard,) = (tmp_path / "run.zarr/streams/params/float32").glob("c.*")
    shard.unlink()
    array = zarr.open_array(shard.parent, mode="r+")
    array[0] = commit.rows["params"].lanes["float32"][0]
    assert shard.exists()
    opened = open_container(tmp_path / "run.zarr")
    Expected.of(manifest, [commit]).check(opened)
    opened.close()


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_h5py_reads_every_value(tmp_path: Path, compression: str | None) -> None:
    expected = written(tmp_path / "run.h5", compression)
    with h5py.File(tmp_path / "run.h5", "r") as root:
        params = root["streams/params"]
        for lane, columns in expected.manifest.by_name["params"].lanes.items():
            assert params[lane].attrs["dtype"].decode() == lane
            assert params[lane].shape == (10, columns)
            found, bits = params[lane][:], expected.lane("params", lane)
            if lane in {"bfloat16", "float8_e5m2"}:  # shown as wider floats of the same values
                known = bits.view(getattr(ml_dtypes, lane)).astype(np.float64)
                np.testing.assert_array_equal(found.astype(np.float64), known)
            else:
                np.testing.assert_array_equal(found.view(bits.dtype), bits)
        gradients = root["streams/gradients"]
        assert gradients["float32"].shape == (5, 5)
        joined = expected.lane("gradients", "float32")[3:, 5:]
        found = gradients["float32.joined"][3:]
        np.testing.assert_array_equal(found.view(np.uint32), joined)
        values = root["scalars/value"][:]
        np.testing.assert_array_equal(values.view(np.uint64), expected.scalar_bits())
        assert root.attrs["format"] == b"trajfile"
        assert root.attrs["format_version"].tolist() == [1, 0]
        assert root.attrs["requires"].tolist() == []


def test_bfloat16_is_hdf5s_own(tmp_path: Path) -> None:
    predefined = getattr(h5py.h5t, "FLOAT_BFLOAT16LE", None)
    written(tmp_path / "run.h5", None)
    with h5py.File(tmp_path / "run.h5", "r") as root:
        found = root["streams/params/bfloat16"].id.get_type()
        assert found.get_class() == h5py.h5t.FLOAT
        assert (found.get_size(), found.get_fields(), found.get_ebias()) == (
            2,
            (15, 7, 8, 0, 7),
            127,
        )
        if predefined is not None:
            assert found.equal(predefined)


def test_rows_of_zeros_are_really_stored(tmp_path: Path) -> None:
    manifest = Manifest(
        (
            stream(
                "params", ("f", (600_000,), "float32"), ("i", (9,), "int16"), ("u", (9,), "uint8")
            ),
        )
    )
    lanes = {
        lane: np.zeros((1, columns), lane) for lane, columns in manifest.streams[0].lanes.items()
    }
    for suffix in (".h5", ".zarr"):
        container = create(tmp_path / f"zeros{suffix}", manifest)
        for step in range(3):
            container.append(Commit(step, {"params": Rows(lanes)}))
        container.close()
        read_all(tmp_path / f"zeros{suffix}")
    for row in range(3):
        shard = tmp_path / f"zeros.zarr/streams/params/float32/c.{row}.0"
        assert shard.stat().st_size == 3 * (200_000 * 4 + 4) + 3 * 16 + 4
    with h5py.File(tmp_path / "zeros.h5", "r") as root:
        assert root["streams/params/float32"].id.get_num_chunks() == 9


def test_lanes_carry_checksums_and_tables_do_not(tmp_path: Path) -> None:
    written(tmp_path / "run.h5", "gzip")
    with h5py.File(tmp_path / "run.h5", "r") as root:
        lane = root["streams/params/float32"]
        assert lane.fletcher32
        assert lane.shuffle
        assert lane.compression == "gzip"
        assert not root["commits"].fletcher32
        assert root["commits"].compression is None


def test_what_others_add_is_ignored(tmp_path: Path) -> None:
    for suffix in (".h5", ".zarr"):
        expected = written(tmp_path / f"run{suffix}", None)
        if suffix == ".h5":
            with h5py.File(tmp_path / "run.h5", "r+") as root:
                root["notes/mine"] = np.arange(3)
                root.attrs["author"] = "someone"
        else:
            other = zarr.open_group(tmp_path / "run.zarr", mode="r+")
            other.create_array("notes", data=np.arange(3))
            other.attrs["author"] = {"name": "someone"}
        opened = open_container(tmp_path / f"run{suffix}")
        expected.check(opened)
        opened.close()
