"""Keras's .weights.h5, with the torch backend."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

import trajfile
from tests.frameworks import framework
from tests.importers.held import check_stream
from trajfile.errors import FormatError, NotATrajectory, Unsafe

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def trained(request, tmp_path_factory):
    """Weights after 0, 4 and 12 updates, and what the model held then."""
    keras = framework("keras")
    folder = tmp_path_factory.mktemp("keras")
    keras.utils.set_random_seed(0)
    policy = keras.dtype_policies.DTypePolicy(request.param)
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(4, name="first", dtype=policy),
            keras.layers.BatchNormalization(dtype=policy),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(3, dtype=policy),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse")
    held = {}
    x, y = np.random.default_rng(0).normal(size=(2, 16, 6))
    for step in range(13):
        if step in {0, 4, 12}:
            model.save_weights(folder / f"step_{step}.weights.h5")
            held[step] = {
                f"{layer.name}/{i}": weight.value.detach().clone()
                for layer in model.layers
                for i, weight in enumerate(layer.trainable_weights)
            }
        model.train_on_batch(x, y[:, :3])
    return folder, held


def test_weights_are_those_of_the_model(trained):
    folder, held = trained
    with trajfile.open(folder) as traj:
        assert traj.container.kind == "keras checkpoints"
        check_stream(traj, "params", held)
        left = traj.manifest.metadata["tensors_left_out"]
        assert len(left["running statistics"]) == 2
        steps, rates = traj.scalars["learning_rate"]
        assert steps.tolist() == [0, 4, 12]
        np.testing.assert_allclose(rates, 0.01, rtol=1e-6)


def test_the_optimizers_count_is_the_step_where_the_name_says_none(trained, tmp_path):
    folder, held = trained
    for step, name in ((4, "x"), (12, "y")):
        data = (folder / f"step_{step}.weights.h5").read_bytes()
        (tmp_path / f"{name}.weights.h5").write_bytes(data)
    with trajfile.open(tmp_path) as traj:
        check_stream(traj, "params", {step: held[step] for step in (4, 12)})


def refused(path, kind, rule, match):
    with pytest.raises(kind, match=match) as caught:
        trajfile.open(path)
    assert caught.value.rule == rule


def test_links_and_other_storage_are_refused(tmp_path):
    path = tmp_path / "step_1.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = h5py.ExternalLink("/etc/passwd", "/x")
    refused(path, Unsafe, "CKPT-007", "external or user-defined link")
    with h5py.File(path, "w") as file:
        file.create_dataset("w/vars/0", (4,), "f4", external=[("elsewhere.raw", 0, 16)])
    refused(path, Unsafe, "CKPT-007", "in another file")
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((4,), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
        file.create_virtual_dataset("w/vars/0", layout)
    refused(path, Unsafe, "CKPT-007", "in another file")
    with h5py.File(path, "w") as file:
        file.create_dataset("w/vars/0", data=np.ones(400), chunks=(4,), compression="gzip")
    refused(path, NotATrajectory, "CKPT-010", "in chunks")


@pytest.mark.parametrize("cut", [0, 40, 1000, -8])
def test_truncated_files_are_named(trained, tmp_path, cut):
    folder, _ = trained
    data = (folder / "step_4.weights.h5").read_bytes()
    (tmp_path / "step_4.weights.h5").write_bytes(data[:cut])
    with pytest.raises(FormatError, match=r"step_4\.weights\.h5") as caught:
        trajfile.open(tmp_path)
    assert caught.value.rule.startswith("CKPT-")
