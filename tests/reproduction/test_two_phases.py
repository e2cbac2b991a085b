"""arXiv 2007.09286: the loss falls first, then the layers balance along the minima manifold.

The abstract's claims: two phases, optimisation and regularisation, the second with a falling
layer imbalance and towards flat minima; weight decay and noise in the data behave alike; so does
the noise of SGD. Asked here of two scalar layers, where all has a closed form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.reproduction.balance import SEEDS, Balance, about, add, asked, recorded, table

pytestmark = pytest.mark.slow

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
    found = table("two_phases_scalar", "expected rate")
    outcomes = []
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
        outcomes += [(run, expected, decay) for run in runs]
        add(found, name, rate, runs, expected)
    found.publish()
    for run, expected, decay in outcomes:
        start, boundary, end = run.imbalance
        if expected == 0:
            assert end == pytest.approx(boundary, rel=1e-3)
            continue
        assert end < 0.5 * start
        assert run.sharpness[2] < run.sharpness[1]
        # Around the minimum the product fluctuates, which adds to the noise of its slope.
        near = pytest.approx(expected, rel=0.01 if decay else 0.1)
        assert run.late == near
        assert run.rates[1] in (None, near)  # None where noise hides when the floor was reached
