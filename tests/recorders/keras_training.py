"""A Keras training, recorded and not: `keras_training.py FOLDER`, with KERAS_BACKEND set."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

import trajfile
from tests.recorders.by_hand import Rows
from trajfile.recorders import Schedule
from trajfile.recorders.keras import Recorder

BATCHES = 6


def data() -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(0).standard_normal((16 * BATCHES, 6)).astype(np.float32)
    return inputs, inputs[:, :2] * 2


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(2)]
    )


def gradients(model: keras.Model, inputs: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    """Of the mean squared error, by the formula of this very network, in float64."""
    w1, b1, w2, b2 = (
        np.array(keras.ops.convert_to_numpy(v), np.float64) for v in model.trainable_variables
    )
    hidden = np.tanh(inputs @ w1 + b1)
    missed = 2 * (hidden @ w2 + b2 - targets) / targets.size
    back = (missed @ w2.T) * (1 - hidden**2)
    return [inputs.T @ back, back.sum(0), hidden.T @ missed, missed.sum(0)]


def own_gradients(model: keras.Model, inputs: np.ndarray, targets: np.ndarray) -> list[np.ndarray]:
    """The same as the framework differentiates it, in a loop written by hand."""
    if keras.backend.backend() == "torch":
        model.zero_grad()
        loss = model.compute_loss(inputs, keras.ops.convert_to_tensor(targets), model(inputs))
        loss.backward()
        found = [v.value.grad.numpy().copy() for v in model.trainable_variables]
        model.zero_grad()
        return found
    import jax

    def loss_of(trained: list[jax.Array], kept: list[jax.Array]) -> jax.Array:
        outputs, _ = model.stateless_call(trained, kept, inputs, training=True)
        return keras.ops.mean(keras.losses.mean_squared_error(targets, outputs))

    values = [v.value for v in model.trainable_variables]
    kept = [v.value for v in model.non_trainable_variables]
    return [np.array(g) for g in jax.jit(jax.grad(loss_of))(values, kept)]


class ByHand(keras.callbacks.Callback):
    """Keeps the state before each batch, as any callback can."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Rows = {}
        self.gradients: list[list[np.ndarray]] = []
        self.own: list[list[np.ndarray]] = []
        self.logged: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        model = self.model
        copy = lambda v: np.array(keras.ops.convert_to_numpy(v))  # noqa: E731
        self.rows.setdefault("params", {})[batch] = {
            v.path: copy(v) for v in model.trainable_variables
        }
        if model.optimizer.built:
            for slot, held in (
                ("exp_avg", model.optimizer._momentums),
                ("exp_avg_sq", model.optimizer._velocities),
            ):
                self.rows.setdefault(f"optimizer/{slot}", {})[batch] = {
                    v.path: copy(s) for v, s in zip(model.trainable_variables, held, strict=True)
                }
        inputs, targets = (array[16 * batch : 16 * batch + 16] for array in data())
        self.gradients.append(gradients(model, inputs, targets))
        self.own.append(own_gradients(model, inputs, targets))
        self.losses = getattr(self, "losses", [])
        self.losses.append(float(np.mean((model.predict_on_batch(inputs) - targets) ** 2)))

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.logged.append(logs["loss"])


def train(
    recorder: Recorder | None, schedule: Schedule | None = None
) -> tuple[keras.Model, ByHand | None, list[float]]:
    model = network()
    optimizer = keras.optimizers.Adam(0.01, clipnorm=0.5)
    callbacks: list[keras.callbacks.Callback] = []
    by_hand = None
    if recorder is not None:
        optimizer = recorder.optimizer(optimizer)
        callbacks.append(recorder)
    elif schedule is not None:
        by_hand = ByHand()
        callbacks.append(by_hand)
    model.compile(optimizer=optimizer, loss="mse")
    history = model.fit(
        *data(), batch_size=16, epochs=1, shuffle=False, verbose=0, callbacks=callbacks
    )
    return model, by_hand, history.history["loss"]


def main(folder: Path) -> None:
    schedule = Schedule(params=1, gradients=1, optimizer=1, updates="at 2")
    plain, _, told = train(None)
    _, by_hand, _ = train(None, schedule)
    path = folder / "run.h5"
    recorded, _, told_recorded = train(Recorder(path, schedule, batch_size=16, on_error="raise"))
    assert told == told_recorded, "the history of the loss differs"
    for left, right in zip(plain.trainable_variables, recorded.trainable_variables, strict=True):
        assert np.array_equal(*(keras.ops.convert_to_numpy(v) for v in (left, right)))
    with trajfile.open(path) as run:
        names = list(run.tensors("params"))
        for index, expected in enumerate(by_hand.gradients):
            for name, value in zip(names, expected, strict=True):
                found = run["gradients"][name][index]
                assert np.allclose(found, value, rtol=1e-4, atol=1e-6), (index, name)
        for index, own in enumerate(by_hand.own):
            for name, value in zip(names, own, strict=True):
                assert np.array_equal(run["gradients"][name][index], value), (index, name)
        losses = run.scalars["loss"][1]
        assert np.allclose(losses, by_hand.losses, rtol=1e-6), (losses, by_hand.losses)
        assert np.allclose(run.scalars["learning_rate"][1], 0.01)
        assert run.manifest.gradient == {
            "source": "mini_batch",
            "batch_size": 16,
            "stage": "raw",
            "applied": "clipped",
        }
        assert run.manifest.optimizer["name"] == "Adam"
        theta = run["params"]
        moved = {n: (theta[n][2] - theta[n][3]) / np.float32(0.01) for n in names}
        for name in names:
            assert np.array_equal(run["updates"][name][0], moved[name])
        # Adam's own rule ties the gradients to the state, but for rounding.
        for name in names:
            m, g = run["optimizer/exp_avg"][name], run["gradients"][name]
            for step in range(BATCHES - 1):
                clipped = g[step] * min(1.0, 0.5 / np.linalg.norm(g[step]))
                assert np.allclose(m[step + 1], 0.9 * m[step] + 0.1 * clipped, 1e-4, 1e-7)
    rows = {k: v for k, v in by_hand.rows.items()}
    with trajfile.open(path) as run:
        for stream, kept in rows.items():
            assert run.steps(stream).tolist() == sorted(kept), stream
            for index, step in enumerate(sorted(kept)):
                for (_, value), name in zip(kept[step].items(), names, strict=True):
                    assert np.array_equal(run[stream][name][index], value), (stream, step, name)
    print(keras.backend.backend(), "agrees")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
