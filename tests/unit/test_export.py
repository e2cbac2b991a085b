"""Exported tensors, read back with the libraries of their formats."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

import trajfile
from tests.unit.every_kind import record
from trajfile.containers import pieces
from trajfile.dtypes import EXTENDED, ITEM_SIZES, bits_of


@pytest.fixture(scope="module", params=[".h5", ".zarr"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("every") / f"run{request.param}"
    record(path)
    return path


@pytest.fixture(params=[16 * 2**20, 24])
def piece_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole blocks at a time; and so little that even a row is cut."""
    for module in ("trajfile.containers.pieces", "trajfile.export_csv"):
        monkeypatch.setattr(f"{module}.PIECE_BYTES", request.param)


@pytest.mark.usefixtures("piece_bytes")
def test_npz_has_every_bit_of_every_dtype(run: Path, tmp_path: Path) -> None:
    done = trajfile.export(run, tmp_path / "out.npz", "*")
    assert done.nbytes == (tmp_path / "out.npz").stat().st_size
    assert len(done.remarks) == len(EXTENDED)
    with trajfile.open(run) as trajectory, np.load(tmp_path / "out.npz") as found:
        assert found["step"].tolist() == trajectory.steps("params").tolist()
        for dtype in ITEM_SIZES:
            known = trajectory["params"][f"p.{dtype}"][:]
            array = found[f"p.{dtype}"]
            if dtype in EXTENDED:
                assert str(found[f"p.{dtype}.dtype"]) == dtype
                array = array.view(getattr(ml_dtypes, dtype))
            assert array.dtype == known.dtype
            np.testing.assert_array_equal(bits_of(array), bits_of(known), strict=True)


@pytest.mark.usefixtures("piece_bytes")
def test_safetensors_has_every_bit_of_every_dtype(run: Path, tmp_path: Path) -> None:
    done = trajfile.export(run, tmp_path / "out.safetensors", "*", steps="10:60:20")
    found = safetensors.torch.load_file(tmp_path / "out.safetensors")
    assert found["step"].tolist() == [10, 30, 50]
    with safetensors.safe_open(tmp_path / "out.safetensors", "np") as file:
        metadata = file.metadata()
    own = {"bfloat16", "float8_e5m2", "float8_e4m3fn", "float8_e8m0fnu"}
    with trajfile.open(run) as trajectory:
        for dtype in ITEM_SIZES:
            known = trajectory["params"][f"p.{dtype}"][[1, 3, 5]]
            tensor = found[f"p.{dtype}"]
            if dtype in own or dtype not in EXTENDED:
                assert tensor.dtype == getattr(torch, dtype)
                assert f"p.{dtype}.dtype" not in metadata
            else:
                assert tensor.dtype == torch.uint8
                assert metadata[f"p.{dtype}.dtype"] == dtype
            assert tensor.shape == known.shape
            bits = tensor.contiguous().view(torch.uint8).numpy()
            assert bits.tobytes() == known.tobytes()
    assert len(done.remarks) == len(EXTENDED.keys() - own)


@pytest.mark.usefixtures("piece_bytes")
def test_csv_gives_every_number_back(run: Path, tmp_path: Path) -> None:
    trajfile.export(run, tmp_path / "out.csv", "*")
    frame = pd.read_csv(tmp_path / "out.csv", dtype=str, keep_default_na=False)
    with trajfile.open(run) as trajectory:
        assert frame["step"].astype(int).tolist() == trajectory.steps("params").tolist()
        for dtype in ITEM_SIZES:
            known = trajectory["params"][f"p.{dtype}"][:]
            names = [f"p.{dtype}[{i},{j}]" for i in range(3) for j in range(5)]
            cells = frame[names].to_numpy()
            plain = known.dtype
            if dtype in EXTENDED:
                plain = np.dtype(np.int64 if "int" in dtype else np.float32)
            with np.errstate(invalid="ignore"):
                back = cells.astype(plain)
                wanted = known.astype(plain).reshape(len(known), -1)
            np.testing.assert_array_equal(back, wanted, strict=True)


def test_late_tensors_and_samples(run: Path, tmp_path: Path) -> None:
    trajfile.export(run, tmp_path / "g.npz", ["w", "late", "none"], stream="gradients")
    with trajfile.open(run) as trajectory:
        gradients, samples = trajectory["gradients"], trajectory["gradient_samples"]
        with np.load(tmp_path / "g.npz") as found:
            assert found["step"].tolist() == [0, 20, 40, 60, 80]
            assert found["late.step"].tolist() == [60, 80]
            assert found["none"].shape == (5, 0, 3)
            np.testing.assert_array_equal(bits_of(found["late"]), bits_of(gradients["late"][:]))
        trajfile.export(run, tmp_path / "g.csv", ["late", "scalar"], stream="gradients")
        frame = pd.read_csv(tmp_path / "g.csv", keep_default_na=False, dtype=str)
        assert frame.columns[:3].tolist() == ["step", "scalar", "late[0,0]"]
        assert (frame["late[1,2]"] == "").tolist() == [True, True, True, False, False]
        trajfile.export(run, tmp_path / "s.safetensors", "w", stream="gradient_samples")
        found = safetensors.torch.load_file(tmp_path / "s.safetensors")
        assert found["sample"].tolist() == samples.samples.tolist()
        assert found["step"].tolist() == samples.steps.tolist()
        assert found["w"].dtype == torch.bfloat16


def test_a_large_tensor_passes_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).standard_normal((8, 1_000_000)).astype(np.float32)
    with trajfile.Writer(tmp_path / "run.zarr") as writer:
        for step, row in enumerate(values):
            writer.append(step, params={"first": np.zeros(3, np.float32), "w": row})
    monkeypatch.setattr(pieces, "PIECE_BYTES", 2**20)
    with trajfile.open(tmp_path / "run.zarr") as trajectory:
        for suffix in ("npz", "safetensors"):
            tracemalloc.start()
            trajfile.export(trajectory, tmp_path / f"out.{suffix}", "w")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 10 * 2**20  # all rows have 32 MB
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["w"], values)
    found = safetensors.numpy.load_file(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(found["w"], values)


def test_a_name_is_taken_as_it_stands(tmp_path: Path) -> None:
    with trajfile.Writer(tmp_path / "run.h5") as writer:
        writer.append(0, params={"w[0]": np.ones(2), "w0": np.zeros(2), "step": np.zeros(1)})
    done = trajfile.export(tmp_path / "run.h5", tmp_path / "out.csv", "w[0]")
    assert [one.name for one in done.tensors] == ["w[0]"]
    assert (tmp_path / "out.csv").read_text() == "step,w[0][0],w[0][1]\n0,1.0,1.0\n"
    with pytest.raises(trajfile.UsageError, match="a tensor is called 'step'"):
        trajfile.export(tmp_path / "run.h5", tmp_path / "out.npz", "step")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "run.h5"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tensors": "p.floaty32"}, "no tensor matches 'p.floaty32' .near it: p.float32"),
        ({"tensors": []}, "no tensor to export is named"),
        ({"tensors": "p.int8", "stream": "gradient"}, "no stream 'gradient'"),
        ({"tensors": "p.int8", "steps": "1:9"}, "no row at steps 1:9: .* holds steps 0 to 90"),
        ({"tensors": "p.int8", "steps": "9"}, "is not a selection"),
        ({"tensors": "p.int8", "out": "x.mat"}, "'.mat', which names no format"),
        ({"tensors": "p.int8", "out": "there.npz"}, "exists already; pass --overwrite"),
        ({"tensors": "p.int8", "out": "no/x.npz"}, "does not exist; create it"),
    ],
)
def test_refusals(run: Path, tmp_path: Path, options: dict, message: str) -> None:
    (tmp_path / "there.npz").write_bytes(b"before")
    options = {"out": "x.npz", **options}
    out = tmp_path / options.pop("out")
    with pytest.raises(trajfile.UsageError, match=message):
        trajfile.export(run, out, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]
    assert (tmp_path / "there.npz").read_bytes() == b"before"


def test_a_damaged_run_leaves_what_was_there(tmp_path: Path) -> None:
    record(tmp_path / "run.zarr")
    (shard,) = (tmp_path / "run.zarr/streams/params/float32").glob("c.9.0")
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    (tmp_path / "out.npz").write_bytes(b"before")
    with pytest.raises(trajfile.Damaged, match="row 9"):
        trajfile.export(tmp_path / "run.zarr", tmp_path / "out.npz", "p.float32", overwrite=True)
    assert (tmp_path / "out.npz").read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"run.zarr", "out.npz"}
