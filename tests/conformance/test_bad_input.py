"""Whatever lies at a path: one clear sentence, the right error and rule, and never a hang."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from tests.conformance.damage import SMALL, chunk_offset, edit_json, flip, refusal, small_run
from tests.contract.runs import stream
from trajfile.containers import create, open_container
from trajfile.containers.base import Commit, Rows
from trajfile.errors import Damaged, NotATrajectory, Unsafe, UnsupportedVersion, UsageError
from trajfile.schema import Manifest

SUFFIXES = [".h5", ".zarr"]


def check(path: Path, error: type[Exception], rule: str, words: str) -> None:
    found = refusal(path)
    assert isinstance(found, error)
    assert found.rule == rule
    assert words in str(found)


@pytest.fixture
def hdf5(tmp_path: Path) -> Path:
    return small_run(tmp_path / "run.h5")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_run(tmp_path / "run.zarr")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing(tmp_path: Path, suffix: str) -> None:
    check(tmp_path / f"none{suffix}", NotATrajectory, "CORE-001", "no such file")


def test_text_renamed(tmp_path: Path) -> None:
    path = tmp_path / "notes.h5"
    path.write_text("epoch,loss\n1,0.3\n")
    check(path, NotATrajectory, "CORE-002", "is not an HDF5 file")
    path.write_text("")
    check(path, NotATrajectory, "CORE-002", "is not an HDF5 file")


def test_folder_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "data.zarr"
    path.mkdir()
    check(path, NotATrajectory, "CORE-002", "not a Zarr v3 group")
    for text in ("{}", "[" * 100_000, "\xff", '{"zarr_format": 2, "node_type": "group"}'):
        (path / "zarr.json").write_text(text, encoding="latin-1")
        check(path, NotATrajectory, "CORE-002", "not a Zarr v3 group")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_another_programs_hdf5(tmp_path: Path, libver: str) -> None:
    path = tmp_path / "keras.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file["x"] = np.arange(4)
        file.attrs["format"] = np.float64(3)
    check(path, NotATrajectory, "CORE-003", "another program")


def test_another_programs_zarr(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "other.zarr", attributes={"format": [1, "x"]})
    check(tmp_path / "other.zarr", NotATrajectory, "CORE-003", "another program")


def set_attribute(path: Path, name: str, value: list) -> None:
    if path.is_dir():
        zarr.open_group(path, mode="r+").attrs[name] = value
    else:
        with h5py.File(path, "r+") as file:
            file.attrs[name] = np.array(value, np.bytes_ if name != "format_version" else "<i8")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_versions_and_features(tmp_path: Path, suffix: str) -> None:
    with pytest.MonkeyPatch.context() as later:
        later.setattr("trajfile.containers.identity.FORMAT_VERSION", (1, 7))
        path = small_run(tmp_path / f"run{suffix}")
    set_attribute(path, "uses", ["histograms"])
    container = open_container(path)
    assert container.format_version == (1, 7)
    container.close()
    set_attribute(path, "requires", ["holograms"])
    check(path, UnsupportedVersion, "CORE-005", "holograms")
    set_attribute(path, "format_version", [2, 0])
    check(path, UnsupportedVersion, "CORE-004", "format version 2.0")


def test_truncated_hdf5_at_any_length(hdf5: Path) -> None:
    data = hdf5.read_bytes()
    for length in [9, 40, 47, 48, 300, *range(1000, len(data), 9973), len(data) - 1]:
        hdf5.write_bytes(data[:length])
        check(hdf5, Damaged, "CORE-006", "truncated")


def test_creation_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "half.h5"
    script = (
        f"import h5py, os; f = h5py.File({str(path)!r}, 'w', libver=('v110', 'v110')); "
        "f['x'] = 1; f.flush(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    check(path, Damaged, "CORE-012", "being created")


def test_a_bit_flips_in_a_lane_of_hdf5(hdf5: Path) -> None:
    flip(hdf5, chunk_offset(hdf5, "streams/params/float32", 1) + 77)
    check(hdf5, Damaged, "SUM-003", "checksum")


@pytest.mark.parametrize(
    "key", ["manifest", "scalars/step", "scalars/value", "streams/params/step"]
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_bit_flips_in_a_table(tmp_path: Path, key: str, suffix: str) -> None:
    path = small_run(tmp_path / f"run{suffix}")
    if suffix == ".h5":
        flip(path, chunk_offset(path, key, 0) + 3)
    else:
        flip(next((path / key).glob("c.0*")), 3)
    check(path, Damaged, "SUM-001", "checksum in the commit record")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_commit_records(tmp_path: Path, suffix: str) -> None:
    path = small_run(tmp_path / f"run{suffix}")
    width = 8 * 10
    file = path if suffix == ".h5" else path / "commits" / "c.0.0"
    start = chunk_offset(path, "commits", 0) if suffix == ".h5" else 0
    whole = file.read_bytes()
    cut = start + 2 * width + 40  # as a kill in the middle of writing the last record leaves it
    file.write_bytes(whole[:cut] + bytes(start + 3 * width - cut) + whole[start + 3 * width :])
    container = open_container(path)
    assert len(container.commits()) == 2
    assert container.committed_rows("params") == 2
    container.close()
    file.write_bytes(whole)
    for record, words in [(2, "is not one cut short"), (1, "yet later ones do")]:
        flip(file, start + record * width)
        check(path, Damaged, "COM-001", f"commit record {record} does not match its checksum, ")
        check(path, Damaged, "COM-001", words)
        flip(file, start + record * width)


def test_a_chunk_vanishes_from_hdf5(hdf5: Path) -> None:
    with h5py.File(hdf5, "r+") as file:
        lane = file["streams/params/float32"]
        lane.resize(2, axis=0)
        lane.resize(3, axis=0)
    check(hdf5, Damaged, "SUM-002", "row 2 is missing")


def test_rows_vanish_from_hdf5(hdf5: Path) -> None:
    with h5py.File(hdf5, "r+") as file:
        file["streams/params/step"].resize(2, axis=0)
    check(hdf5, Damaged, "COM-002", "2 rows where 3 are committed")
    with h5py.File(hdf5, "r+") as file:
        del file["streams/params/step"]
    check(hdf5, Damaged, "CORE-007", "is missing")


def test_an_array_of_another_type_in_hdf5(hdf5: Path) -> None:
    with h5py.File(hdf5, "r+") as file:
        del file["streams/params/float32"]
        file.create_dataset(
            "streams/params/float32",
            (3, 3000),
            "f8",
            chunks=(1, 3000),
            maxshape=(None, 3000),
            fletcher32=True,
        )
    check(hdf5, Damaged, "DT-002", "does not hold float32")
    with h5py.File(hdf5, "r+") as file:
        del file["streams/params/float32"]
        lane = file.create_dataset(
            "streams/params/float32", (3, 3000), "f4", chunks=(1, 3000), maxshape=(None, 3000)
        )
        lane.attrs["dtype"] = np.bytes_("float32")
    check(hdf5, Damaged, "H5-007", "through filters ()")
    with h5py.File(hdf5, "r+") as file:
        del file["streams/params/float32"]
        file.create_dataset("streams/params/float32", (3, 3000), "f4")
    check(hdf5, Damaged, "H5-009", "not chunked")


@pytest.mark.parametrize("kind", ["soft", "external", "hard", "loop"])
def test_links_in_hdf5(hdf5: Path, tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(hdf5, "r+") as file:
        if kind == "soft":
            file["alias"] = h5py.SoftLink("/manifest")
        elif kind == "external":  # opening it would wait on the pipe for ever
            file["streams/params/more"] = h5py.ExternalLink(str(tmp_path / "pipe"), "/")
        elif kind == "hard":
            file["again"] = file["manifest"]
        else:
            file["streams/again"] = file["/"]
    check(hdf5, Unsafe, "H5-002" if kind in {"soft", "external"} else "H5-003", "link")


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_storage_elsewhere_in_hdf5(hdf5: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 80)
    with h5py.File(hdf5, "r+") as file:
        del file["streams/params/step"]
        if kind == "external":
            outside = [(str(tmp_path / "secret"), 0, 80)]
            file.create_dataset("streams/params/step", (3,), "i8", external=outside)
        else:
            source = h5py.VirtualSource(str(tmp_path / "other.h5"), "x", (3,))
            virtual = h5py.VirtualLayout((3,), "i8")
            virtual[:] = source
            file.create_virtual_dataset("streams/params/step", virtual)
    check(hdf5, Unsafe, "H5-001", "external or virtual storage")


def test_unknown_filter_in_hdf5(hdf5: Path) -> None:
    with h5py.File(hdf5, "r+") as file:
        del file["streams/params/float32"]
        file.create_dataset(
            "streams/params/float32", (3, 3000), "f4", chunks=(1, 3000), compression="lzf"
        )
    check(hdf5, Unsafe, "H5-006", "HDF5 filter 32000")


@pytest.mark.parametrize("key", ["commits", "manifest", "scalars/value"])
def test_a_shape_beyond_all_bytes_in_hdf5(hdf5: Path, key: str) -> None:
    with h5py.File(hdf5, "r+") as file:
        file[key].resize(2**44, axis=0)
    if key == "commits":
        check(hdf5, Unsafe, "CORE-009", "far beyond the bytes stored")
    else:
        open_container(hdf5).close()  # what is not committed does not matter


def test_a_shard_goes_wrong(folder: Path) -> None:
    lane = folder / "streams/params/float32"
    whole = (lane / "c.1.0").read_bytes()
    for place, words in [
        (50, "chunk fails"),
        (len(whole) - 2, "index fails"),
        (len(whole) - 12, "index fails"),
    ]:
        flip(lane / "c.1.0", place)
        check(folder, Damaged, "SUM-003", words)
        (lane / "c.1.0").write_bytes(whole)
    for length in (0, 7, 1000, len(whole) - 1):
        (lane / "c.1.0").write_bytes(whole[:length])
        assert refusal(folder).rule == "SUM-003"
    (lane / "c.1.0").unlink()
    check(folder, Damaged, "SUM-002", "row 1 is missing")


def test_a_chunk_is_missing_within_a_shard(folder: Path) -> None:
    array = zarr.open_array(folder / "streams/params/float32", mode="r+")
    (folder / "streams/params/float32/c.1.0").unlink()
    array[1] = np.full(3000, np.nan, np.float32)  # the fill value, so nothing is stored
    assert refusal(folder).rule == "SUM-002"


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_compressed_chunk_inflates_beyond_its_size(tmp_path: Path, compression: str) -> None:
    path = small_run(tmp_path / "run.zarr", compression=compression)
    large = Manifest((stream("params", ("w", (100_000,), "float32")),))
    bomb = create(tmp_path / "bomb.zarr", large, compression=compression)
    bomb.append(Commit(0, {"params": Rows({"float32": np.zeros((1, 100_000), np.float32)})}))
    bomb.close()
    lane = path / "streams/params/float32"
    shutil.copy(tmp_path / "bomb.zarr/streams/params/float32/c.0.0", lane / "c.1.0")
    check(path, Damaged, "SUM-003", "cannot be decompressed")


def test_tables_of_zarr(folder: Path) -> None:
    chunk = folder / "streams/params/step/c.0"
    data = chunk.read_bytes()
    chunk.write_bytes(data[:-1])
    check(folder, Damaged, "SUM-003", "does not have 4096 bytes")
    chunk.unlink()
    check(folder, Damaged, "COM-002", "fewer than the 3 rows")
    shutil.rmtree(chunk.parent)
    check(folder, Damaged, "CORE-007", "missing")


def test_documents_of_zarr(folder: Path) -> None:
    document = folder / "streams/params/float32/zarr.json"
    good = document.read_bytes()
    cases: list[tuple[dict[str, object], type[Exception], str]] = [
        ({"data_type": "float64"}, Damaged, "DT-002"),
        ({"shape": [3, 2999]}, Damaged, "CORE-007"),
        ({"shape": [3]}, Damaged, "CORE-007"),
        ({"shape": []}, Damaged, "CORE-007"),
        ({"shape": "large"}, Damaged, "ZR-002"),
        ({"codecs": [{"name": "bytes"}]}, Damaged, "ZR-008"),
        ({"codecs": [{"name": "pickle"}]}, Unsafe, "ZR-007"),
        ({"codecs": []}, Damaged, "ZR-008"),
        ({"codecs": [{"name": "sharding_indexed", "configuration": {}}]}, Damaged, "ZR-008"),
        ({"chunk_grid": {"name": "regular", "configuration": {}}}, Damaged, "ZR-004"),
        ({"chunk_key_encoding": {"name": "default"}}, Damaged, "ZR-005"),
        ({"storage_transformers": [{"name": "x"}]}, Damaged, "ZR-006"),
        ({"node_type": "group"}, Damaged, "ZR-002"),
    ]
    for changes, error, rule in cases:
        edit_json(document, **changes)
        found = refusal(folder)
        assert (type(found), found.rule) == (error, rule), changes
        document.write_bytes(good)
    for junk in (b"{", b"\xff\xfe", b"[" * 100_000, b"null"):
        document.write_bytes(junk)
        assert refusal(folder).rule == "ZR-002"


@pytest.mark.parametrize(
    "place", ["streams/params/float32/c.1.0", "streams/params", "commits/c.0.0", "zarr.json"]
)
def test_symbolic_links_in_zarr(folder: Path, tmp_path: Path, place: str) -> None:
    (folder / place).rename(tmp_path / "elsewhere")
    (folder / place).symlink_to(tmp_path / "elsewhere")
    check(folder, Unsafe, "ZR-001", "symbolic link")


@pytest.mark.parametrize("place", ["streams/params/float32/c.1.0", "manifest/c.0", "zarr.json"])
def test_pipes_in_zarr(folder: Path, place: str) -> None:
    (folder / place).unlink()
    os.mkfifo(folder / place)
    check(folder, Unsafe, "CORE-010", "not a regular file")


def test_a_pipe_for_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.h5")
    check(tmp_path / "run.h5", Unsafe, "CORE-010", "not a regular file")


def test_a_link_to_a_whole_trajectory_is_the_users_own(hdf5: Path, folder: Path) -> None:
    for target in (hdf5, folder):
        link = target.with_name("link" + target.suffix)
        link.symlink_to(target)
        open_container(link).close()


def test_usage(tmp_path: Path) -> None:
    for name, words in [("run.npz", r"\.h5 or \.hdf5"), ("run", r"\.zarr")]:
        with pytest.raises(UsageError, match=words):
            create(tmp_path / name, SMALL)
    with pytest.raises(UsageError, match="compression 'lz4'"):
        create(tmp_path / "run.h5", SMALL, compression="lz4")  # type: ignore[arg-type] # on purpose
    with pytest.raises(UsageError, match="durability 'never'"):
        create(tmp_path / "run.h5", SMALL, durability="never")  # type: ignore[arg-type] # on purpose
    with pytest.raises(UsageError, match="does not exist: make it first"):
        create(tmp_path / "nowhere" / "run.h5", SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["uuid", "requires", "uses", "format_version"])
def test_root_attributes_of_another_type_are_not_looked_at(tmp_path: Path, name: str) -> None:
    path = small_run(tmp_path / "run.h5")
    with h5py.File(path, "r+") as file:
        file.attrs[name] = np.array(["text of any length"], h5py.string_dtype())
    check(path, Damaged, "H5-012", name)
