"""Small recorded runs: a healthy one, and for each shipped rule one that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

import trajfile

SHAPES = {"fc1.weight": (6, 5), "fc2.weight": (4, 6), "fc2.bias": (4,)}
SGD = {"name": "SGD", "momentum": 0.0, "weight_decay": 0.0}
RAW = {"stage": "raw", "source": "full_batch"}

Arrays = dict[str, np.ndarray]


def record(
    path: Path,
    *,
    steps: list[int] | None = None,
    rate: float = 0.01,
    change: Callable[[int, Arrays], Arrays] = lambda step, arrays: arrays,
    loss: Callable[[int, float], float] = lambda step, value: value,
    rates: Callable[[int], float] | None = None,
    scale_invariant: list[str] | None = None,
    gradient: dict[str, object] | None = None,
    frozen: tuple[str, ...] = (),
) -> Path:
    """Gradient descent towards a target on half the squared distance."""
    generator = np.random.default_rng(0)
    steps = list(range(60)) if steps is None else steps
    target = {n: generator.normal(size=s).astype("f4") for n, s in SHAPES.items()}
    theta = {n: 3 * generator.normal(size=s).astype("f4") for n, s in SHAPES.items()}
    groups = {"layers": ["fc1.weight", "fc2.weight"]}
    if scale_invariant:
        groups["scale_invariant"] = scale_invariant
    with trajfile.Writer(
        path, optimizer=SGD, groups=groups, gradient=RAW if gradient is None else gradient
    ) as writer:
        for step in range(steps[-1] + 1):
            slope = {n: theta[n] - target[n] for n in SHAPES}
            if step in steps:
                value = 0.5 * sum(float((g.astype("f8") ** 2).sum()) for g in slope.values())
                writer.append(
                    step,
                    params=theta,
                    gradients=slope,
                    scalars={
                        "loss": loss(step, value),
                        "learning_rate": rate if rates is None else rates(step),
                    },
                )
            moved = {
                n: theta[n] if n in frozen else theta[n] - np.float32(rate) * slope[n]
                for n in SHAPES
            }
            theta = change(step, moved)
    return path


def healthy(path: Path, steps: list[int] | None = None) -> Path:
    """Breaks no rule."""
    return record(path, steps=steps)


def wide(path: Path) -> Path:
    """A run of several chunks a row."""
    generator = np.random.default_rng(5)
    theta = generator.normal(size=600_000).astype("f4")
    with trajfile.Writer(path, optimizer=SGD, gradient=RAW) as writer:
        for step in range(8):
            writer.append(
                step,
                params={"a": theta[:400_000], "b": theta[400_000:].reshape(400, 500)},
                scalars={"loss": 1.0 / (1 + step), "learning_rate": 0.1},
            )
            theta = theta * np.float32(0.99)
    return path


def flip(path: Path) -> Path:
    """A healthy run, one byte of whose last snapshot is another."""
    record(path)
    data = bytearray(path.read_bytes())
    found = trajfile.open(path)["params"]["fc1.weight"][40].tobytes()
    data[data.index(found) + 7] ^= 0x10
    path.write_bytes(data)
    return path


def _nan(step: int, arrays: Arrays) -> Arrays:
    if step == 30:
        arrays["fc2.bias"][1] = np.nan
    return arrays


def _thrown(step: int, arrays: Arrays) -> Arrays:
    return {n: a + 99 for n, a in arrays.items()} if step == 20 else arrays


def _turned(step: int, arrays: Arrays) -> Arrays:
    return {n: -a for n, a in arrays.items()} if step == 30 else arrays


def _grown(step: int, arrays: Arrays) -> Arrays:
    return {**arrays, "fc1.weight": arrays["fc1.weight"] * np.float32(1.12)}


def twice(path: Path) -> Path:
    """A run whose third snapshot repeats the step of the second, as no writer would have it."""
    from trajfile.containers import open_container
    from trajfile.containers.base import Commit, Rows

    record(path, steps=[0, 1])
    container = open_container(path, writable=True)
    lanes = {"float32": np.ones((1, 58), "f4")}
    container.append(Commit(1, {"params": Rows(lanes), "gradients": Rows(lanes)}))
    container.close()
    return path


def misstated(path: Path) -> Path:
    """A run whose manifest states a stage of gradients that the format does not know."""
    from trajfile.containers import create
    from trajfile.containers.base import Commit, Rows
    from trajfile.schema import Manifest, StreamSpec, TensorSpec

    stream = StreamSpec("params", (TensorSpec("w", (2,), "float32", 0, 0),))
    container = create(path, Manifest((stream,), (), gradient={"stage": "odd"}))
    for step in range(3):
        container.append(Commit(step, {"params": Rows({"float32": np.ones((1, 2), "f4")})}))
    container.close()
    return path


def sharp(path: Path) -> Path:
    """A run whose recorded sharpness passes 2 / learning rate."""
    with trajfile.Writer(path, optimizer=SGD, gradient=RAW) as writer:
        theta = np.ones(8, "f4")
        for step in range(40):
            writer.append(
                step,
                params={"w": theta},
                gradients={"w": theta},
                scalars={"loss": 4.0, "learning_rate": 0.1, "sharpness": 26.0 + step / 10},
            )
            theta = theta * np.float32(0.99)
    return path


#: For each shipped rule that a whole run can break, what records one that does.
BREAKING: dict[str, Callable[[Path], Path]] = {
    "non-finite": lambda path: record(path, change=_nan),
    "loss-not-finite": lambda path: record(path, loss=lambda s, v: np.nan if s == 9 else v),
    "loss-grew": lambda path: record(path, loss=lambda step, value: 1.0 + step),
    "divergence": lambda path: Path("sample_data/three_regimes_divergence.h5"),
    "exploding-update": lambda path: record(path, change=_thrown),
    "vanishing-update": lambda path: record(path, rate=1e-9),
    "dead-tensor": lambda path: record(path, frozen=("fc2.bias",)),
    "update-ratio": lambda path: record(path, rate=0.5),
    "sharpness-limit": sharp,
    "jumps": lambda path: record(path, change=_turned),
    "imbalance-growing": lambda path: record(path, change=_grown),
    "misaligned": lambda path: Path("sample_data/periodic_toy.h5"),
    "gradient-stage": lambda path: record(path, gradient={"stage": "scaled"}),
    "learning-rate-zero": lambda path: record(path, rates=lambda s: 0.01 if s < 50 else 0.0),
    "missing-steps": lambda path: record(path, steps=[*range(20), *range(40, 60)]),
    "order-of-steps": twice,
    "invalid": misstated,
    "damaged": flip,
    "unreadable": lambda path: path.with_name("absent.h5"),
}
