"""Trajectories in xarray: labelled right, lazy, and bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray

import trajfile
from tests.contract.runs import stream
from tests.unit.every_kind import record
from trajfile.containers.base import Commit, Rows
from trajfile.containers.memory import MemoryContainer
from trajfile.dtypes import ITEM_SIZES, bits_of
from trajfile.reader import Trajectory
from trajfile.schema import Manifest


@pytest.fixture
def every(tmp_path: Path):
    record(tmp_path / "run.h5")
    with trajfile.open(tmp_path / "run.h5") as trajectory:
        yield trajectory


def test_every_tensor_of_every_dtype_is_there_bit_for_bit(every: Trajectory) -> None:
    tree = every.to_xarray()
    assert set(tree.children) == {*(s.split("/")[0] for s in every.streams), "scalars"}
    for name in every.streams:
        for tensor, rows in every[name].items():
            array = tree[name][tensor]
            assert array.shape == rows.shape
            assert array.dtype == rows.dtype
            np.testing.assert_array_equal(bits_of(array.values), bits_of(rows[:]), strict=True)
    assert {f"p.{dtype}" for dtype in ITEM_SIZES} == set(tree["params"].data_vars)


def test_dimensions_and_coordinates(every: Trajectory) -> None:
    params = every.to_xarray("params")
    assert params["p.float32"].dims == ("step", "p.float32_dim_0", "p.float32_dim_1")
    assert params.step.values.tolist() == every.steps("params").tolist()
    assert params["p.float32"].sel(step=30, **{"p.float32_dim_0": 2}).shape == (5,)
    gradients = every.to_xarray("gradients")
    assert gradients["scalar"].dims == ("step",)
    assert gradients["none"].shape == (5, 0, 3)
    assert gradients["late"].dims[0] == "step_from_60"
    assert gradients["step_from_60"].values.tolist() == [60, 80]
    samples = every.to_xarray("gradient_samples")
    assert samples["w"].dims == ("row", "w_dim_0")
    assert samples["step"].values.tolist() == every.steps("gradient_samples").tolist()
    assert samples["sample"].values.tolist() == every["gradient_samples"].samples.tolist()
    unstacked = samples.set_index(row=["step", "sample"])
    assert unstacked.sel(row=(30, 1))["w"].shape == (4,)


def test_scalars_and_attributes(every: Trajectory) -> None:
    tree = every.to_xarray()
    for name, (steps, values) in every.scalars.items():
        column = tree["scalars"][name]
        np.testing.assert_array_equal(column.sel(step=steps), values)
        assert np.isnan(column.drop_sel(step=steps)).all()
    assert tree.attrs["uuid"] == every.uuid
    assert '"AdamW"' in tree.attrs["optimizer"]
    assert tree.attrs["metadata"] == '{"note":"π","nested":{"b":[1,2.5,null],"a":true}}'


def in_memory(*tensors: str, rows: int = 6) -> Trajectory:
    spec = stream("params", *((name, (3, 4), "float32") for name in tensors))
    container = MemoryContainer(Manifest((spec,)))
    for step in range(rows):
        lane = np.arange(12 * len(tensors), dtype=np.float32)[None] + 100 * step
        container.append(Commit(step, {"params": Rows({"float32": lane})}))
    return Trajectory(container)


def test_nothing_is_read_but_what_is_indexed() -> None:
    trajectory = in_memory("a", "b")
    array = trajectory.to_xarray()["params/b"]
    assert trajectory.container.reads == []
    picked = array.isel(step=slice(2, 4), b_dim_1=[0, 3], b_dim_0=1).load()
    assert picked.values.tolist() == [[216.0, 219.0], [316.0, 319.0]]
    (read,) = trajectory.container.reads
    assert (read.rows, read.columns) == ((2, 4), (12, 24))


@pytest.mark.parametrize(
    "key",
    [
        {"step": [4, 1, 1], "a_dim_1": slice(None, None, -2)},
        {"step": -1, "a_dim_0": [2, 0]},
        {"step": slice(5, 0, -2), "a_dim_0": 0, "a_dim_1": 3},
        {"a_dim_0": [0, 2], "a_dim_1": [3, 0]},
        {axis: xarray.DataArray([0, 2, 1], dims="k") for axis in ("step", "a_dim_1")},
    ],
)  # fmt: skip
def test_indexing_is_xarrays_own(key: dict) -> None:
    trajectory = in_memory("a")
    lazy = trajectory.to_xarray("params")["a"]
    whole = xarray.DataArray(trajectory["params"]["a"][:], dims=lazy.dims)
    np.testing.assert_array_equal(lazy.isel(key).values, whole.isel(key).values, strict=True)


def test_streams_meet_at_the_steps_they_share(tmp_path: Path) -> None:
    with trajfile.Writer(tmp_path / "run.h5") as writer:
        for step in range(12):
            w = {"w": np.full(2, step, np.float64)}
            writer.append(step, params=w, gradients=w if step % 4 == 0 else None)
    with trajfile.open(tmp_path / "run.h5") as trajectory:
        tree = trajectory.to_xarray()
        inner = (tree["params/w"] * tree["gradients/w"]).sum("w_dim_0")
    assert inner.step.values.tolist() == [0, 4, 8]
    assert inner.values.tolist() == [0.0, 32.0, 128.0]


def test_a_slash_makes_a_node_and_a_clash_is_told() -> None:
    tree = in_memory("top", "block/attn/w", "block/w").to_xarray()
    assert tree["params/block/attn/w"].shape == (6, 3, 4)
    assert tree["params/block/w"].values[1, 0, 0] == 124.0
    clash = in_memory("block", "block/w")
    with pytest.raises(trajfile.UsageError, match=r"'block'.*to_xarray\('params'\)"):
        clash.to_xarray()
    assert clash.to_xarray("params")["block/w"].shape == (6, 3, 4)


def test_it_goes_to_netcdf_and_back(tmp_path: Path) -> None:
    tree = in_memory("a", "b").to_xarray()
    tree["params"].to_dataset().to_netcdf(tmp_path / "a.nc", engine="scipy")
    with xarray.open_dataset(tmp_path / "a.nc", engine="scipy") as back:
        np.testing.assert_array_equal(back["b"], tree["params/b"])


def test_without_xarray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(trajfile.UsageError, match=r"trajfile\[xarray\]"):
        in_memory("a").to_xarray()
