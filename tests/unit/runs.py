"""Small rows of parameters that differ from step to step."""

from __future__ import annotations

import numpy as np


def theta(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {
        "w": rng.standard_normal((3, 4)).astype(np.float32),
        "b": rng.standard_normal(3),
        "s": np.float32(step),
    }
