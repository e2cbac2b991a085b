"""Checkpoints of Orbax, as JAX programs save them."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import trajfile
from tests.importers.frameworks import framework
from tests.importers.held import check_stream
from trajfile.errors import FormatError, Unsafe

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A training state after 1 and 20 updates by optax's Adam."""
    jax, ocp, optax = map(framework, ("jax", "orbax.checkpoint", "optax"))
    folder = tmp_path_factory.mktemp("orbax")
    key = jax.random.key(0)
    params = {
        "dense": {"kernel": jax.random.normal(key, (3, 4)), "bias": jax.numpy.zeros(4)},
        "scale": jax.numpy.ones(2, jax.numpy.bfloat16),
    }
    optimizer = optax.adam(1e-2)
    state = optimizer.init(params)
    held, slots = {}, {}
    with ocp.CheckpointManager(folder) as manager:
        for step in range(1, 21):
            gradients = jax.tree.map(lambda p: p + 1, params)
            updates, state = optimizer.update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            if step in {1, 20}:
                tree = {"params": params, "opt_state": state, "step": np.int64(step)}
                manager.save(step, args=ocp.args.StandardSave(tree))
                held[step], slots[step] = flat(params), flat(state[0].nu)
        manager.wait_until_finished()
    return folder, held, slots


def flat(tree):
    return {
        "dense.kernel": np.asarray(tree["dense"]["kernel"]),
        "dense.bias": np.asarray(tree["dense"]["bias"]),
        "scale": np.asarray(tree["scale"]),
    }


def test_params_and_optimizer(saved):
    folder, held, slots = saved
    with trajfile.open(folder) as traj:
        assert traj.container.kind == "orbax"
        check_stream(traj, "params", held)
        check_stream(traj, "optimizer/exp_avg_sq", slots)
        part = np.empty((2, 5), "f4")
        traj.container.read("params", "float32", slice(0, 2), slice(3, 8), part)
        width = traj.manifest.by_name["params"].lanes["float32"]
        whole = np.empty((2, width), "f4")
        traj.container.read("params", "float32", slice(0, 2), slice(0, width), whole)
        np.testing.assert_array_equal(part, whole[:, 3:8])


def test_plain_trees_in_numbered_folders(tmp_path):
    ocp = framework("orbax.checkpoint")
    tree = {"a": {"w": np.arange(6, dtype="f4").reshape(2, 3)}, "b": np.ones(3, "f8")}
    with ocp.StandardCheckpointer() as checkpointer:
        for step in (5, 40):
            checkpointer.save(tmp_path / "run" / f"step_{step}", tree)
        checkpointer.wait_until_finished()
    with trajfile.open(tmp_path / "run") as traj:
        check_stream(traj, "params", {s: {"a.w": tree["a"]["w"], "b": tree["b"]} for s in (5, 40)})


def test_unfinished_folders_are_left_out(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "run")
    (tmp_path / "run/20").rename(tmp_path / "run/20.orbax-checkpoint-tmp-0")
    with trajfile.open(tmp_path / "run") as traj:
        assert traj.steps("params").tolist() == [1]


def test_links_and_missing_pieces(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "run")
    item = tmp_path / "run/20/default"
    pieces = sorted(item.glob("**/d/*"))
    for piece in pieces:
        piece.rename(tmp_path / piece.name)

    def read_all():
        with trajfile.open(tmp_path / "run") as traj:
            for tensor in traj["params"].values():
                tensor[:]

    with pytest.raises(FormatError) as refused:
        read_all()
    assert refused.value.rule == "CKPT-004"
    pieces[0].symlink_to(tmp_path / pieces[0].name)
    with pytest.raises(Unsafe, match="is a link") as refused:
        trajfile.open(tmp_path / "run")
    assert refused.value.rule == "CKPT-007"
    pieces[0].unlink()
    (item / "_METADATA").write_text("{}")
    with pytest.raises(FormatError, match="no table of arrays"):
        trajfile.open(tmp_path / "run")
