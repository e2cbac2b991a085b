"""arXiv 2007.09286 again, asked of a deep linear network on scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from tests.reproduction.balance import SEEDS, Balance, about, add, asked, recorded, table
from tests.reproduction.study import digits

pytestmark = pytest.mark.slow

# Three linear layers on the digits. The inputs are their principal components scaled to variance
# one, so the loss over all of them is |P - T|²/2 plus a constant, P the product of the layers.

COMPONENTS = 8
LAYERS = ("0.weight", "1.weight", "2.weight")


def white_digits() -> tuple[np.ndarray, np.ndarray]:
    """Inputs (1797, 8), of mean 0 and covariance 1, and targets (1797, 10) of mean 0."""
    images, labels = (array.numpy() for array in digits())
    images = images.astype(np.float64) - images.mean(axis=0, dtype=np.float64)
    inputs = np.linalg.svd(images, full_matrices=False)[0][:, :COMPONENTS] * len(images) ** 0.5
    targets = 2.0 * np.eye(10)[labels]
    return inputs, targets - targets.mean(axis=0)


def sharpness_of(weights: list[np.ndarray], best: np.ndarray) -> float:
    """λ_max of the loss over all digits, from its dense Hessian."""
    sizes = [weight.size for weight in weights]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        first, second, third = (
            part.reshape(weight.shape)
            for part, weight in zip(flat.split(sizes), weights, strict=True)
        )
        return (third @ second @ first - torch.tensor(best)).square().sum() / 2

    flat = torch.tensor(np.concatenate([weight.ravel() for weight in weights]))
    hessian = torch.func.jacrev(torch.func.jacrev(loss))(flat)
    return float(torch.linalg.eigvalsh(hessian)[-1])


@dataclass(frozen=True)
class Regulariser:
    """What acts besides the gradient of the loss over all digits.

    Attributes:
        name: In words.
        rate: Learning rate.
        decay: Weight decay.
        batch: Digits a step; None for all of them.
        noise: Standard deviation of noise added to the inputs.
        drop: Share of the units of each hidden layer that are dropped, the others scaled up.
        teacher: Whether the targets are the best linear map's own, so that batches agree.
    """

    name: str
    rate: float
    steps: int
    decay: float = 0.0
    batch: int | None = None
    noise: float = 0.0
    drop: float = 0.0
    teacher: bool = False


def deep_linear(how: Regulariser, seed: int) -> Iterator[dict[str, Any]]:
    """Train 8-8-8-10 from a small unbalanced start."""
    random = np.random.default_rng(seed)
    inputs, targets = white_digits()
    best = targets.T @ inputs / len(inputs)
    if how.teacher:
        targets = inputs @ best.T
    floor = ((targets - inputs @ best.T) ** 2).sum() / len(inputs) / 2
    shapes = [(8, 8), (8, 8), (10, 8)]
    scales = [0.2, 0.6, 0.6]
    weights = [s * random.standard_normal(n) / 8**0.5 for s, n in zip(scales, shapes, strict=True)]
    for step in range(how.steps + 2):
        chosen = slice(None) if how.batch is None else random.integers(len(inputs), size=how.batch)
        signals = [inputs[chosen]]
        if how.noise:
            signals[0] = signals[0] + how.noise * random.standard_normal(signals[0].shape)
        masks = []
        for weight in weights:
            units = signals[-1] @ weight.T
            kept = random.random(units.shape) >= how.drop if weight is not weights[-1] else 1.0
            masks.append(kept / (1 - how.drop) if weight is not weights[-1] else 1.0)
            signals.append(units * masks[-1])
        back = (signals[-1] - targets[chosen]) / len(signals[-1])
        slopes = []
        for weight, signal, mask in zip(weights[::-1], signals[-2::-1], masks[::-1], strict=True):
            back = back * mask
            slopes.insert(0, back.T @ signal)
            back = back @ weight
        if recorded(step, how.steps // 120):
            product = weights[2] @ weights[1] @ weights[0]
            yield {
                "step": step,
                "params": dict(zip(LAYERS, weights, strict=True)),
                "gradients": dict(zip(LAYERS, slopes, strict=True)),
                "scalars": {
                    "loss": float(((product - best) ** 2).sum() / 2 + floor),
                    "learning_rate": how.rate,
                    "lambda_max": sharpness_of(weights, best) if step % 100 == 0 else None,
                },
            }
        weights = [w - how.rate * (g + how.decay * w) for w, g in zip(weights, slopes, strict=True)]


def test_a_deep_linear_network_on_digits_has_two_phases(tmp_path):
    settings = [
        Regulariser("none", 0.1, 6000),
        Regulariser("weight decay 0.001", 0.1, 12_000, decay=0.001),
        Regulariser("weight decay 0.003", 0.1, 6000, decay=0.003),
        Regulariser("weight decay 0.003", 0.05, 12_000, decay=0.003),
        Regulariser("input noise 0.3", 0.05, 12_000, batch=32, noise=0.3, teacher=True),
        Regulariser("dropout 0.1", 0.05, 12_000, batch=32, drop=0.1, teacher=True),
        Regulariser("SGD, batches of 8", 0.05, 12_000, batch=8),
        Regulariser("batches of 8, no noise in targets", 0.05, 12_000, batch=8, teacher=True),
    ]
    outcomes = []
    found = table("two_phases_digits", "−2ηλ")
    for how in settings:
        source = "full_batch" if how.batch is None else "mini_batch"
        runs = [
            Balance.told_by(
                asked(
                    tmp_path / "run.h5",
                    deep_linear(how, seed),
                    about(how.decay, list(LAYERS), source),
                )
            )
            for seed in SEEDS
        ]
        add(found, how.name, how.rate, runs, -2 * how.rate * how.decay + 0.0)
        outcomes += [(how, run) for run in runs]
    found.publish()
    for how, run in outcomes:
        boundary, end = run.imbalance[1:]
        if how.decay:
            near = pytest.approx(-2 * how.rate * how.decay, rel=0.02)
            assert run.late == near
            assert run.rates[1] in (None, near)
        elif how.batch is None or how.name.endswith("no noise in targets"):
            assert end == pytest.approx(boundary, rel=0.02)
            continue
        elif not how.drop:  # under dropout the norms do not balance
            assert end < boundary
        # The law of D holds whatever the batch, but not through the masks of dropout.
        assert (run.law < 1e-6) == (how.drop == 0)
        if how.decay or how.noise:
            assert run.sharpness[2] < run.sharpness[1]
