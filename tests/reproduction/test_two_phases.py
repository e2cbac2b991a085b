"""arXiv 2007.09286: the loss falls first, then the layers balance along the minima manifold.

The abstract's claims: two phases, optimisation and regularisation, the second with a falling
layer imbalance and towards flat minima; weight decay and noise in the data behave alike; so does
the noise of SGD. Two nets are asked: two scalar layers, where all has a closed form, and a deep
linear network on scikit-learn's digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from tests.reproduction.study import Table, analyzed, digits, of
from trajfile.report import Report

pytestmark = pytest.mark.slow

SEEDS = (0, 1, 2)


def recorded(step: int, every: int) -> bool:
    """Each of the first steps, in which the loss falls, then pairs of adjacent ones."""
    return step < 50 or step % every < 2


def about(decay: float, layers: list[str], source: str) -> dict[str, Any]:
    """What the writer is told."""
    return {
        "optimizer": {"name": "SGD", "weight_decay": decay, "momentum": 0.0},
        "groups": {"layers": layers},
        "gradient": {"stage": "raw", "source": source},
    }


def asked(path: Any, rows: Iterator[dict[str, Any]], told: dict[str, Any]) -> Report:
    """The report on imbalance, with the exact λ_max that each row carries."""
    options = {"sharpness.recorded": "lambda_max"}
    return analyzed(path, rows, told, ["imbalance", "sharpness"], options)


@dataclass(frozen=True)
class Balance:
    """What a study needs of a report: imbalance and exact sharpness, and when.

    Attributes:
        boundary: Step at which the loss has reached its floor; the run's first if it has not.
        imbalance: At the start, at the boundary and at the end.
        sharpness: Likewise.
        rates: Slope of ln|D| per step before and after the boundary, as the tool measures it.
        phase: Whether the tool calls that a regularisation phase.
        law: The median residual of the law of D.
    """

    boundary: int | None
    imbalance: tuple[float, float, float]
    sharpness: tuple[float, float, float]
    rates: tuple[float | None, float | None]
    phase: bool | None
    law: float | None

    @classmethod
    def told_by(cls, report: Report) -> Balance:
        """Read a report."""
        summary = report.metrics["imbalance"].summary
        boundary = summary["phase_boundary_step"]

        def three(steps: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
            at = int(np.searchsorted(steps, boundary or steps[0]))
            return values[0], values[at], values[-1]

        return cls(
            boundary,
            three(*of(report.metrics["imbalance"], "max_abs")),
            three(*of(report.metrics["sharpness"], "recorded")),
            (summary["decay_rate_before"], summary["decay_rate"]),
            summary["regularisation_phase"],
            summary["law_residual"],
        )


# Two scalar layers: L(w) = mean over the data of (w1 w2 x - y)².

Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Data:
    """What two scalar layers learn from.

    Attributes:
        draw: Inputs and targets of one step.
        moments: E[x²], E[xy], E[y²] of what is drawn.
        slope_square: E[G²] at the minimum, G = dL/d(w1 w2) of one step.
        source: As the writer calls it.
    """

    draw: Draw
    moments: tuple[float, float, float]
    slope_square: float
    source: str


def clean() -> Data:
    """One example, x = y = 1."""
    return Data(lambda _: (np.ones(1), np.ones(1)), (1.0, 1.0, 1.0), 0.0, "full_batch")


def noisy_input(sigma: float) -> Data:
    """x = 1 + σξ with fresh noise at every step, y = 1."""
    square = 1 + sigma**2
    optimum = 1 / square
    # G = 2(Wx - 1)x. E[x³] = 1 + 3σ², E[x⁴] = 1 + 6σ² + 3σ⁴.
    fourth = 1 + 6 * sigma**2 + 3 * sigma**4
    slope_square = 4 * (optimum**2 * fourth - 2 * optimum * (1 + 3 * sigma**2) + square)
    return Data(
        lambda source: (1 + sigma * source.standard_normal(1), np.ones(1)),
        (square, 1.0, 1.0),
        slope_square,
        "mini_batch",
    )


def mini_batches(batch: int, examples: int = 64, noise: float = 0.5) -> Data:
    """Batches of a fixed set whose targets are noisy, drawn with replacement."""
    source = np.random.default_rng(99)
    x = source.standard_normal(examples)
    x /= np.sqrt((x**2).mean())
    y = x + noise * source.standard_normal(examples)
    optimum = (x * y).mean()
    slopes = 2 * (optimum * x - y) * x

    def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        chosen = random.integers(examples, size=batch)
        return x[chosen], y[chosen]

    moments = 1.0, float(optimum), float((y**2).mean())
    return Data(draw, moments, float((slopes**2).mean() / batch), "mini_batch")


def two_scalars(
    data: Data, rate: float, decay: float, steps: int, seed: int
) -> Iterator[dict[str, Any]]:
    """SGD from an unbalanced start."""
    random = np.random.default_rng(seed)
    first, second = 0.1 * random.standard_normal(), 1.6 + 0.2 * random.random()
    xx, xy, yy = data.moments
    for step in range(steps + 2):
        x, y = data.draw(random)
        product = first * second
        slope = float((2 * (product * x - y) * x).mean())
        slopes = slope * second, slope * first
        if recorded(step, steps // 120):
            mean_slope = 2 * (xx * product - xy)
            cross = 2 * xx * product + mean_slope
            hessian = [[2 * xx * second**2, cross], [cross, 2 * xx * first**2]]
            yield {
                "step": step,
                "params": {"w1": np.array([[first]]), "w2": np.array([[second]])},
                "gradients": {"w1": np.array([[slopes[0]]]), "w2": np.array([[slopes[1]]])},
                "scalars": {
                    "loss": xx * product**2 - 2 * xy * product + yy,
                    "learning_rate": rate,
                    "lambda_max": float(np.linalg.eigvalsh(hessian)[-1]),
                },
            }
        first -= rate * (slopes[0] + decay * first)
        second -= rate * (slopes[1] + decay * second)


def test_two_scalar_layers_balance_at_the_rate_that_follows_from_the_law(tmp_path):
    settings = [
        ("none", clean(), 0.05, 0.0, 6000),
        ("weight decay 0.001", clean(), 0.05, 0.001, 12_000),
        ("weight decay 0.003", clean(), 0.05, 0.003, 6000),
        ("weight decay 0.003", clean(), 0.02, 0.003, 12_000),
        ("input noise 0.3", noisy_input(0.3), 0.01, 0.0, 40_000),
        ("input noise 0.4", noisy_input(0.4), 0.01, 0.0, 40_000),
        ("SGD, batches of 4", mini_batches(4), 0.01, 0.0, 60_000),
        ("SGD, batches of 2", mini_batches(2), 0.01, 0.0, 40_000),
    ]
    table = Table(
        "two_phases_scalar",
        *("regularised by", "η", "phase boundary", "regularisation phases"),
        *("D at start", "D at boundary", "D at end"),
        *("rate before", "rate after", "expected rate"),
        *("λ_max at boundary", "λ_max at end"),
    )
    for name, data, rate, decay, steps in settings:
        runs = [
            Balance.told_by(
                asked(
                    tmp_path / "run.h5",
                    two_scalars(data, rate, decay, steps, seed),
                    about(decay, ["w1", "w2"], data.source),
                )
            )
            for seed in SEEDS
        ]
        # D' = (1-ηλ)²D - η²G²D, exactly without decay; G² by its mean at the minimum.
        expected = 2 * np.log1p(-rate * decay) - rate**2 * data.slope_square + 0.0  # no -0
        for run in runs:
            start, boundary, end = run.imbalance
            assert boundary > 0.6 * start or name == "input noise 0.4"
            if expected == 0:
                assert end == pytest.approx(boundary, rel=1e-3)
                continue
            assert end < 0.6 * boundary
            assert run.rates[1] == pytest.approx(expected, rel=0.1 if decay == 0 else 0.01)
            assert run.sharpness[2] < run.sharpness[1] or data.source == "mini_batch"
        table.add(
            *(name, rate, [run.boundary for run in runs]),
            f"{sum(run.phase is True for run in runs)} of {len(runs)}",
            *([run.imbalance[at] for run in runs] for at in range(3)),
            *([run.rates[at] for run in runs] for at in range(2)),
            expected,
            [run.sharpness[1] for run in runs],
            [run.sharpness[2] for run in runs],
        )
    table.publish()


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
    table = Table(
        "two_phases_digits",
        *("regularised by", "η", "phase boundary", "regularisation phases"),
        *("D at start", "D at boundary", "D at end", "rate before", "rate after", "−2ηλ"),
        *("λ_max at boundary", "λ_max at end"),
    )
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
        table.add(
            *(how.name, how.rate, [run.boundary for run in runs]),
            f"{sum(run.phase is True for run in runs)} of {len(runs)}",
            *([run.imbalance[at] for run in runs] for at in range(3)),
            *([run.rates[at] for run in runs] for at in range(2)),
            -2 * how.rate * how.decay + 0.0,
            [run.sharpness[1] for run in runs],
            [run.sharpness[2] for run in runs],
        )
        for run in runs:
            boundary, end = run.imbalance[1:]
            if how.decay:
                assert run.rates[1] == pytest.approx(-2 * how.rate * how.decay, rel=0.02)
            elif how.batch is None or how.name.endswith("no noise in targets"):
                assert end == pytest.approx(boundary, rel=0.02)
                continue
            elif not how.drop:  # under dropout the norms do not balance
                assert end < boundary
            # The law of D holds whatever the batch, but not through the masks of dropout.
            assert (run.law < 1e-6) == (how.drop == 0)
            if how.decay or how.noise:
                assert run.sharpness[2] < run.sharpness[1]
    table.publish()
