"""Reading is lazy, follows NumPy, and reads what is asked for and no more."""

from __future__ import annotations

import math
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trajfile
from tests.conformance.breakers import sound_run
from tests.conformance.forge import rekey
from tests.unit.in_memory import trajectory
from tests.unit.runs import theta
from trajfile.reader import Trajectory

ROWS = 8


@pytest.fixture(scope="module")
def dense() -> np.ndarray:
    return np.arange(ROWS * 6, dtype=np.float32).reshape(ROWS, 2, 3)


@pytest.fixture(scope="module")
def run(dense) -> Trajectory:
    """Two tensors in one lane, one in another; steps 0, 10, ..., 70."""
    return trajectory(
        (
            10 * k,
            {"params": {"a": np.full(5, k, np.float32), "w": dense[k], "b": theta(k)["b"]}},
            {},
        )
        for k in range(ROWS)
    )


KEYS = [
    0,
    -1,
    np.int64(3),
    slice(2, 5),
    slice(None, None, 3),
    slice(6, 1, -2),
    slice(-3, None),
    slice(5, 5),
    [4, 1, 1, -1],
    np.array([[0, 7], [3, -2]]),
    np.array(2),
    [],
    np.arange(ROWS) % 3 == 1,
    [True] + [False] * (ROWS - 1),
    ...,
    (slice(1, 4), 0),
    (slice(None), slice(None), -1),
    (2, 1, 2),
    (2, ..., 0),
    ([1, 5], [0, 1]),
    ([1, 5], slice(None), [0, 1]),
    (..., 1),
    (None, 3),
    np.ones((ROWS, 2, 3), bool),
]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_indexing_is_that_of_numpy(run, dense, key):
    read = run["params"]["w"][key]
    expected = dense[key]
    assert read.dtype == expected.dtype
    assert read.shape == expected.shape
    np.testing.assert_array_equal(read, expected)


@settings(deadline=None)
@given(st.slices(ROWS), st.lists(st.integers(-ROWS, ROWS - 1), max_size=12))
def test_any_slice_and_any_rows(part, index):
    dense = np.arange(ROWS * 3, dtype=np.int16).reshape(ROWS, 3)
    tensor = trajectory((k, {"params": {"t": dense[k]}}, {}) for k in range(ROWS))["params"]["t"]
    np.testing.assert_array_equal(tensor[part], dense[part])
    np.testing.assert_array_equal(tensor[index], dense[index])


@pytest.mark.parametrize("key", [ROWS, -ROWS - 1, [0, ROWS], np.ones(ROWS + 1, bool), 1.5, "w"])
def test_a_row_that_is_not_there(run, key):
    with pytest.raises(IndexError):
        run["params"]["w"][key]


@pytest.mark.parametrize(
    ("key", "rows"),
    [
        (slice(2, 5), [(2, 5)]),
        (-1, [(7, 8)]),
        (slice(None, None, 3), [(0, 1), (3, 4), (6, 7)]),
        ([6, 1, 2, 6], [(1, 3), (6, 7)]),
        (np.arange(ROWS) >= 6, [(6, 8)]),
        ((slice(0, 2), 0), [(0, 2)]),
    ],
    ids=str,
)
def test_only_the_rows_and_columns_asked_for_are_read(run, key, rows):
    container = run.container
    container.reads.clear()
    before = container.bytes_read
    run["params"]["w"][key]
    assert [read.rows for read in container.reads] == rows
    assert {(r.stream, r.lane, r.columns) for r in container.reads} == {
        ("params", "float32", (5, 11))
    }
    assert container.bytes_read - before == sum(b - a for a, b in rows) * 6 * 4


def test_nothing_is_read_before_indexing(run):
    run.container.reads.clear()
    tensor = run["params"]["w"]
    assert (len(tensor), tensor.shape, tensor.ndim) == (ROWS, (ROWS, 2, 3), 3)
    assert (tensor.dtype, tensor.nbytes) == (np.float32, ROWS * 6 * 4)
    assert tensor.steps.tolist() == [10 * k for k in range(ROWS)]
    assert "'w' (8, 2, 3) float32" in repr(tensor)
    assert "3 tensors, 8 rows" in repr(run["params"])
    assert list(run["params"]) == ["a", "w", "b"]
    run.header()
    assert run.container.reads == []


def test_a_tensor_becomes_an_array(run, dense):
    tensor = run["params"]["w"]
    np.testing.assert_array_equal(np.asarray(tensor), dense)
    assert np.asarray(tensor, np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.stack(list(tensor)), dense)
    with pytest.raises(ValueError, match="without a copy"):
        np.array(tensor, copy=False)


def test_low_precision_keeps_its_dtype():
    tensor = trajectory([(0, {"params": {"t": np.ones(2, ml_dtypes.float8_e5m2)}}, {})])
    assert tensor["params"]["t"][0].dtype == ml_dtypes.float8_e5m2


def test_tensors_without_elements_and_without_axes():
    run = trajectory(
        (k, {"params": {"none": np.empty((0, 3)), "one": np.float64(k)}}, {}) for k in range(3)
    )
    assert run["params"]["none"][:].shape == (3, 0, 3)
    assert run["params"]["one"][1] == 1.0
    np.testing.assert_array_equal(run["params"]["one"][:], [0.0, 1.0, 2.0])


def test_at_a_step(run, dense):
    np.testing.assert_array_equal(run["params"]["w"].at(30), dense[3])
    with pytest.raises(trajfile.UsageError, match=r"'w' of params was not recorded at step 31"):
        run["params"]["w"].at(31)


def test_a_tensor_that_joined_later_starts_at_its_first_row():
    run = trajectory(
        (
            k,
            {
                "params": {"w": np.full(2, k, np.float32)}
                | ({"late": np.float32(k)} if k > 2 else {})
            },
            {},
        )
        for k in range(5)
    )
    late = run["params"]["late"]
    assert late.steps.tolist() == [3, 4]
    np.testing.assert_array_equal(late[:], [3, 4])
    np.testing.assert_array_equal(late[[-1, 0]], [4, 3])
    with pytest.raises(trajfile.UsageError, match="at step 2"):
        late.at(2)


def test_gradient_samples_are_rows_keyed_by_step_and_sample():
    samples = {k: np.arange(k * 4.0).reshape(k, 2, 2) for k in (2, 3)}
    run = trajectory((k, {"gradient_samples": {"w": samples[k]}}, {}) for k in (2, 3))
    tensor = run["gradient_samples"]["w"]
    assert tensor.shape == (5, 2, 2)
    assert tensor.steps.tolist() == [2, 2, 3, 3, 3]
    assert tensor.samples.tolist() == [0, 1, 0, 1, 2]
    np.testing.assert_array_equal(tensor.at(3), samples[3])
    assert run.row_index("gradient_samples", np.array([3])).tolist() == [2, 3, 4]
    assert run.row_index("gradient_samples", np.array([2, 3])).tolist() == [0, 1, 2, 3, 4]
    assert run.row_index("gradient_samples", np.array([], np.int64)).tolist() == []


def test_rows_by_step(run):
    assert run.row_index("params", np.array([70, 0, 30])).tolist() == [7, 0, 3]
    with pytest.raises(trajfile.UsageError, match="params has no row at step 35"):
        run.row_index("params", np.array([30, 35]))


def test_names_that_are_not_there(run):
    with pytest.raises(trajfile.UsageError, match="no stream 'gradients'; it has params"):
        run["gradients"]
    with pytest.raises(KeyError, match="near it: w"):
        run["params"]["ww"]
    assert "params" in run
    assert "gradients" not in run
    assert "w" in run["params"]
    assert run["params"].get("nothing") is None


def scalars_only():
    return trajectory(
        (k, {}, {"loss": [0.5, None, math.nan, math.inf][k], "lr": k if k else None})
        for k in range(4)
    )


def test_scalars_are_there_where_they_were_recorded():
    run = scalars_only()
    steps, values = run.scalars["loss"]
    assert (steps.dtype, values.dtype) == (np.int64, np.float64)
    assert steps.tolist() == [0, 2, 3]
    np.testing.assert_array_equal(values, [0.5, math.nan, math.inf])
    assert run.scalars["lr"][0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_a_file_on_disk_is_opened_by_path(suffix, tmp_path):
    path = tmp_path / f"run{suffix}"
    with trajfile.Writer(path) as writer:
        for step in range(5):
            writer.append(step, params=theta(step))
    with trajfile.open(str(path)) as run:
        np.testing.assert_array_equal(run["params"]["w"][1:3], [theta(k)["w"] for k in (1, 2)])
        assert run.path == str(path)
        assert len(run.uuid) == 36
        assert "params: 5" in repr(run)


def test_what_is_missing_or_something_else(tmp_path):
    with pytest.raises(trajfile.NotATrajectory, match="no such file"):
        trajfile.open(tmp_path / "nothing.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(trajfile.NotATrajectory, match="not an HDF5 file"):
        trajfile.open(tmp_path / "text.h5")


def test_importing_the_package_loads_no_container_and_no_torch():
    code = (
        "import sys, trajfile; trajfile.Writer; trajfile.open; trajfile.UsageError;"
        "print([m for m in ('torch', 'h5py', 'zarr') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("first", ["trajfile.validate", "trajfile.analyze", "trajfile.reader"])
def test_the_public_names_are_functions_whatever_is_imported_first(first):
    code = (
        f"import sys, {first}, trajfile;"
        "from trajfile.validate import validate;"
        "from trajfile.analyze import analyze, plan;"
        "assert trajfile.validate is validate and trajfile.analyze is analyze;"
        "assert callable(trajfile.open) and 'torch' not in sys.modules;"
        "assert 'validate' in dir(trajfile) and not hasattr(trajfile, 'nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("steps", [[0, 2, 2, 3], [0, 2, 1, 3], [-1, 0, 1, 2]])
def test_steps_out_of_order_are_refused(tmp_path, steps):
    path = sound_run(tmp_path / "run.h5")
    rekey(path, "gradients", lambda found: found.__setitem__(slice(None), steps))
    with pytest.raises(trajfile.Damaged, match="do not increase") as refused:
        trajfile.open(path)
    assert refused.value.rule == "STR-008"
