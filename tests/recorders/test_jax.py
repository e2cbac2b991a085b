"""The JAX recorder under jit, against rows kept by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import trajfile
from tests.frameworks import Later, framework
from tests.recorders.by_hand import Rows, check_recorded
from tests.recorders.snippets import run_snippet
from trajfile.recorders import RecordingWarning, Schedule

jax, jnp, optax = Later("jax", "optax"), Later("jax.numpy"), Later("optax")
recorders = Later("trajfile.recorders.jax", "jax", "optax")
trees = Later("trajfile.recorders.jax_trees", "jax", "optax")

FULL = Schedule(params=1, gradients=1, updates=1, optimizer=1)


def start(width: int = 8) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "first": {
            "kernel": jnp.asarray(random.standard_normal((6, width), np.float32)),
            "bias": jnp.asarray(np.zeros(width, np.float32)),
        },
        "second": {
            "kernel": jnp.asarray(random.standard_normal((width, 3)).astype(ml_dtypes.bfloat16))
        },
    }


def loss_of(params: dict[str, Any], inputs: Any, labels: Any) -> Any:
    hidden = jnp.tanh(inputs @ params["first"]["kernel"] + params["first"]["bias"])
    logits = hidden @ params["second"]["kernel"].astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def batch(step: int) -> tuple[Any, Any]:
    inputs = np.random.default_rng(step).standard_normal((16, 6), np.float32)
    return inputs, (inputs[:, :3] + inputs[:, 3:]).argmax(1)


def named(tree: Any) -> dict[str, np.ndarray]:
    return dict(
        zip(
            trees.names_of(tree),
            (np.array(leaf) for leaf in jax.tree.leaves(tree)),
            strict=True,
        )
    )


OPTIMIZERS = {
    "adamw": (lambda rate: optax.adamw(rate), {"exp_avg", "exp_avg_sq"}),
    "momentum": (lambda rate: optax.sgd(rate, momentum=0.9), {"momentum_buffer"}),
    "clipped lion": (
        lambda rate: optax.chain(optax.clip_by_global_norm(0.1), optax.lion(rate)),
        {"exp_avg"},
    ),
}


@pytest.mark.parametrize(
    "which",
    ["adamw", *(pytest.param(n, marks=pytest.mark.slow) for n in ("momentum", "clipped lion"))],
)
def test_under_jit_bit_for_bit(which: str, tmp_path: Path) -> None:
    """With donated buffers and a schedule of the learning rate."""
    make, slots = OPTIMIZERS[which]
    rate = optax.linear_schedule(0.05, 0.0, 10)
    rows: Rows = {}
    losses: list[float] = []

    def run(recorder: Any) -> Any:
        plain = make(rate)
        optimizer = plain if recorder is None else recorder.wrap(plain)

        def step(params: Any, state: Any, inputs: Any, labels: Any) -> Any:
            loss, gradients = jax.value_and_grad(loss_of)(params, inputs, labels)
            told = {} if recorder is None else {"loss": loss}
            updates, state = optimizer.update(gradients, state, params, **told)
            return optax.apply_updates(params, updates), state, loss, gradients, updates

        step = jax.jit(step, donate_argnums=(0, 1))
        params = start()
        state = optimizer.init(params)
        for k in range(6):
            if recorder is None:
                rows.setdefault("params", {})[k] = named(params)
                for slot, tree in trees.slots_of(state, params).items():
                    rows.setdefault(f"optimizer/{slot}", {})[k] = named(tree)
            params, state, loss, gradients, updates = step(params, state, *batch(k))
            if recorder is None:
                rows.setdefault("gradients", {})[k] = named(gradients)
                by = np.asarray(rate(k), np.float32)
                rows.setdefault("updates", {})[k] = {
                    name: (-u / by).astype(u.dtype) for name, u in named(updates).items()
                }
                losses.append(float(loss))
        return params

    expected = run(None)
    with recorders.Recorder(
        tmp_path / "run.h5", FULL, learning_rate=rate, batch_size=16, on_error="raise"
    ) as recorder:
        found = run(recorder)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True)
    )
    assert {s.removeprefix("optimizer/") for s in rows if "/" in s} == slots
    check_recorded(tmp_path / "run.h5", rows)
    with trajfile.open(tmp_path / "run.h5") as run_:
        assert run_.scalars["loss"][1].tolist() == losses
        assert run_.scalars["learning_rate"][1].tolist() == [float(rate(k)) for k in range(6)]
        assert run_.manifest.gradient["stage"] == "raw"
        assert run_.tensors("params")["second.kernel"].dtype == "bfloat16"


def test_in_a_scan_on_a_schedule_with_accumulation(tmp_path: Path) -> None:
    """Ten micro-batches in one compiled loop, two to an update: five steps, two of them due."""
    recorder = recorders.Recorder(
        tmp_path / "run.h5", Schedule(params="every 3", gradients="at 3"), on_error="raise"
    )
    optimizer = optax.MultiSteps(recorder.wrap(optax.sgd(0.1)), 2)
    params = {"w": jnp.ones(40_000)}

    @jax.jit
    def train(params: Any, state: Any) -> Any:
        def body(carry: Any, k: Any) -> Any:
            params, state = carry
            gradients = jax.tree.map(lambda p: p * k, params)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(body, (params, state), jnp.arange(10.0))[0]

    train(params, optimizer.init(params))
    recorder.close()
    with trajfile.open(tmp_path / "run.h5") as run:
        assert run.steps("params").tolist() == [0, 3]
        assert run.steps("gradients").tolist() == [3]
        theta = np.ones(1, np.float32)
        for step in range(3):
            theta = theta - np.float32(0.1) * theta * np.float32((2 * step + 2 * step + 1) / 2)
        assert np.allclose(run["params"]["w"][1], theta, rtol=1e-5)
        assert np.allclose(run["gradients"]["w"][0], theta * 6.5, rtol=1e-5)


def test_flax_nnx(tmp_path: Path) -> None:
    nnx = framework("flax.nnx")
    model = nnx.Linear(6, 3, rngs=nnx.Rngs(0))
    recorder = recorders.Recorder(tmp_path / "run.h5", FULL, learning_rate=0.1, on_error="raise")
    optimizer = nnx.Optimizer(model, recorder.wrap(optax.sgd(0.1, momentum=0.9)), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, inputs: Any, labels: Any) -> Any:
        def loss_fn(model: Any) -> Any:
            logits = model(inputs)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(model, gradients, loss=loss)
        return gradients

    rows: Rows = {"params": {}, "gradients": {}}
    for k in range(4):
        rows["params"][k] = named(nnx.state(model, nnx.Param))
        rows["gradients"][k] = named(step(model, optimizer, *batch(k)))
    recorder.close()
    with trajfile.open(tmp_path / "run.h5") as run:
        assert set(run.tensors("params")) == {"kernel", "bias"}
        assert len(run.scalars["loss"][1]) == 4
        for stream, kept in rows.items():
            for k, tensors in kept.items():
                for name, array in tensors.items():
                    assert np.array_equal(run[stream][name][k], array)


def test_bad_input(tmp_path: Path) -> None:
    recorder = recorders.Recorder(tmp_path / "run.h5", Schedule(params=1))
    optimizer = recorder.wrap(optax.sgd(0.1))
    with pytest.raises(trajfile.UsageError, match=r"come to the name 'a\.b'"):
        optimizer.init({"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(1)})
    with pytest.raises(trajfile.UsageError, match="needs the params"):
        optimizer.update({"w": jnp.ones(1)}, optimizer.init({"w": jnp.ones(1)}))
    with pytest.raises(trajfile.UsageError, match="asks for updates"):
        recorders.Recorder(tmp_path / "other.h5", FULL)
    state = optimizer.init({"w": jnp.ones(2)})
    optimizer.update({"w": jnp.ones(2)}, state, {"w": jnp.ones(2)})
    jax.effects_barrier()
    later = state._replace(count=state.count + 1)
    optimizer.update({"w": jnp.ones(3)}, later, {"w": jnp.ones(3)})
    with pytest.warns(RecordingWarning, match="expected float32 of shape"):
        recorder.close()
    with trajfile.open(tmp_path / "run.h5") as run:
        assert run.steps("params").tolist() == [0]


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "jax": framework("jax"),
        "optax": framework("optax"),
        "params": {"w": jax.numpy.ones(3)},
        "batches": np.ones((12, 3), np.float32),
        "loss_of": lambda params, batch: ((params["w"] * batch) ** 2).sum(),
    }
    run_snippet("JAX", given)
    with trajfile.open("run.h5") as recorded:
        assert recorded.steps("gradients").tolist() == [0, 1, 2]
        assert recorded.scalars["loss"][0].tolist() == [0, 1, 2, 10]
