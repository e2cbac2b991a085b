"""Record the smallest function that jumps periodically, at every step, without any framework.

f(x, y) = 3 x**2 / (x**2 + y**2) does not depend on the length of (x, y). Weight decay shortens
the vector until a step overshoots the valley x = 0: the cycle of arXiv 2106.15739 in two numbers.
Every step is recorded, so the cosines between steps and the exact law of the effective learning
rate can be checked.
"""

from pathlib import Path

import numpy as np

import trajfile

STEPS, LEARNING_RATE, WEIGHT_DECAY, NOISE = 1000, 0.1, 0.1, 1e-6


def record(path: Path) -> None:
    """Run gradient descent with weight decay and a whisper of noise across the valley."""
    noise = np.random.default_rng(0)
    theta = np.array([0.6, 0.8])
    with trajfile.Writer(
        path,
        mode="w",
        optimizer={"name": "SGD", "weight_decay": WEIGHT_DECAY, "momentum": 0.0},
        groups={"scale_invariant": ["theta"]},
        gradient={"stage": "raw", "source": "full_batch"},
        metadata={"function": "3 x^2 / (x^2 + y^2), tangential noise of 1e-6 on its gradient"},
    ) as run:
        for step in range(STEPS):
            x, y = theta
            square = x * x + y * y
            tangent = np.array([-y, x]) / np.sqrt(square)
            gradient = 6 * x * y / square**2 * np.array([y, -x])
            gradient += NOISE * noise.standard_normal() * tangent
            run.append(
                step,
                params={"theta": theta},
                gradients={"theta": gradient},
                scalars={"loss": 3 * x * x / square, "learning_rate": LEARNING_RATE},
            )
            theta = theta - LEARNING_RATE * (gradient + WEIGHT_DECAY * theta)


if __name__ == "__main__":
    record(Path(__file__).with_name("periodic_toy.h5"))
