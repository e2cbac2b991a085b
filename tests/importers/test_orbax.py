"""Checkpoints of Orbax, as JAX programs save them."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import trajfile
from tests.importers.held import check_stream
from trajfile.errors import FormatError, Unsafe

# JAX warns whenever a process that loaded it forks, as other tests do: it has its own process.
TRAINING = """
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp

folder, plain, held = sys.argv[1:]
kernel = np.random.default_rng(0).standard_normal((3, 4), np.float32)
params = {
    "dense": {"kernel": jax.numpy.asarray(kernel), "bias": jax.numpy.zeros(4)},
    "scale": jax.numpy.ones(2, jax.numpy.bfloat16),
}
optimizer = optax.adam(1e-2)

@jax.jit
def step_of(params, state):
    gradients = jax.tree.map(lambda p: p + 1, params)
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

state = optimizer.init(params)

def keep(name, tree):
    flat = {"dense.kernel": tree["dense"]["kernel"], "dense.bias": tree["dense"]["bias"],
            "scale": np.asarray(tree["scale"]).view("u2")}
    np.savez(Path(held) / name, **{key: np.asarray(value) for key, value in flat.items()})

with ocp.CheckpointManager(folder) as manager:
    for step in range(1, 21):
        params, state = step_of(params, state)
        if step in {1, 20}:
            tree = {"params": params, "opt_state": state, "step": np.int64(step)}
            manager.save(step, args=ocp.args.StandardSave(tree))
            keep(f"params_{step}.npz", params)
            keep(f"slots_{step}.npz", state[0].nu)
    manager.wait_until_finished()
tree = {"a": {"w": np.arange(6, dtype="f4").reshape(2, 3)}, "b": np.ones(3, "f8")}
with ocp.StandardCheckpointer() as checkpointer:
    for step in (5, 40):
        checkpointer.save(Path(plain) / f"step_{step}", tree)
    checkpointer.wait_until_finished()
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A training state after 1 and 20 updates by optax's Adam, and a plain tree at two steps."""
    for name in ("jax", "optax", "orbax", "tensorstore"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    root = tmp_path_factory.mktemp("orbax")
    places = [root / name for name in ("run", "plain", "held")]
    for place in places:
        place.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", TRAINING, *map(str, places)]
    subprocess.run(command, check=True, capture_output=True)
    return root


def kept(root: Path, name: str) -> dict[int, dict[str, np.ndarray]]:
    return {step: dict(np.load(root / f"held/{name}_{step}.npz")) for step in (1, 20)}


def test_params_and_optimizer(saved):
    with trajfile.open(saved / "run") as traj:
        assert traj.container.kind == "orbax checkpoints"
        check_stream(traj, "params", kept(saved, "params"))
        check_stream(traj, "optimizer/exp_avg_sq", kept(saved, "slots"))
        part = np.empty((2, 5), "f4")
        traj.container.read("params", "float32", slice(0, 2), slice(3, 8), part)
        width = traj.manifest.by_name["params"].lanes["float32"]
        whole = np.empty((2, width), "f4")
        traj.container.read("params", "float32", slice(0, 2), slice(0, width), whole)
        np.testing.assert_array_equal(part, whole[:, 3:8])


def test_plain_trees_in_numbered_folders(saved):
    tree = {"a.w": np.arange(6, dtype="f4").reshape(2, 3), "b": np.ones(3)}
    with trajfile.open(saved / "plain") as traj:
        check_stream(traj, "params", {step: tree for step in (5, 40)})


def test_unfinished_folders_are_left_out(saved, tmp_path):
    shutil.copytree(saved / "run", tmp_path / "run")
    (tmp_path / "run/20").rename(tmp_path / "run/20.orbax-checkpoint-tmp-0")
    with trajfile.open(tmp_path / "run") as traj:
        assert traj.steps("params").tolist() == [1]


def test_links_and_missing_pieces(saved, tmp_path):
    shutil.copytree(saved / "run", tmp_path / "run")
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
