"""arXiv 2103.00065: full-batch gradient descent lets the sharpness rise to 2/η and hover there.

The oracle is the sharpness itself: the top eigenvalue of the loss Hessian by ARPACK on exact
Hessian-vector products, at every snapshot. The tool sees parameters and gradients alone, in bursts
of consecutive steps, and its Ritz value is held against the oracle step by step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn
from torch.func import functional_call, grad, vjp

from tests.reproduction.study import Table, analyzed, digits, of
from trajfile.report import MetricResult

pytestmark = pytest.mark.slow

INPUTS, HIDDEN, EXAMPLES = 8, 32, 400
EVERY, BURST, WINDOW = 50, 12, 6
#: Steps of each run. The first rate leaves 2/η above any sharpness met: the control.
RATES = {0.05: 2000, 0.15: 2000, 0.2: 1500, 0.25: 1500}
SEEDS = (0, 1, 2)
ABOUT = {
    "optimizer": {"name": "SGD", "weight_decay": 0.0, "momentum": 0.0},
    "gradient": {"stage": "raw", "source": "full_batch", "dataset_size": EXAMPLES},
}


class Descent:
    """Gradient descent in float64 on a tanh network of two hidden layers, squared error."""

    def __init__(self, rate: float, steps: int, seed: int):
        torch.manual_seed(seed)
        images, labels = digits()
        centred = (images - images.mean(0)).double()
        directions = torch.linalg.svd(centred, full_matrices=False).Vh[:INPUTS]
        self.inputs = (centred @ directions.T)[:EXAMPLES]
        self.inputs /= self.inputs.std()
        self.targets = nn.functional.one_hot(labels[:EXAMPLES]).double()
        self.model = nn.Sequential(
            nn.Linear(INPUTS, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(),
            nn.Linear(HIDDEN, 10),
        ).double()  # fmt: skip
        self.params = {name: p.detach() for name, p in self.model.named_parameters()}
        self.rate, self.steps = rate, steps
        self.slope = grad(self.loss)
        self.top: np.ndarray | None = None
        self.exact: dict[int, float] = {}

    def loss(self, params: dict[str, torch.Tensor]) -> torch.Tensor:
        outputs = functional_call(self.model, params, (self.inputs,))
        return (outputs - self.targets).square().sum(1).mean()

    def sharpness(self) -> float:
        sizes = [p.numel() for p in self.params.values()]
        # The Hessian is symmetric: pulling a vector back through the gradient multiplies by it.
        _, pullback = vjp(self.slope, self.params)

        def times(vector: np.ndarray) -> np.ndarray:
            parts = torch.as_tensor(vector.ravel()).split(sizes)
            tangent = {
                name: part.reshape(p.shape)
                for (name, p), part in zip(self.params.items(), parts, strict=True)
            }
            (product,) = pullback(tangent)
            return torch.cat([product[name].flatten() for name in self.params]).numpy()

        operator = LinearOperator((sum(sizes),) * 2, matvec=times, dtype=np.float64)
        # The last step's eigenvector is a good start: the answer is the same, sooner.
        values, vectors = eigsh(operator, k=1, which="LA", v0=self.top, tol=1e-4, ncv=8)
        self.top = vectors[:, 0]
        return float(values[0])

    def rows(self) -> Iterator[dict[str, Any]]:
        for step in range(self.steps):
            slope = self.slope(self.params)
            row: dict[str, Any] = {"step": step}
            if step % EVERY < BURST:
                self.exact[step] = self.sharpness()
                loss = self.loss(self.params).item()
                row |= {"params": self.params, "gradients": slope}
                row["scalars"] = {"loss": loss, "learning_rate": self.rate}
                yield row
            self.params = {n: p - self.rate * slope[n] for n, p in self.params.items()}


@dataclass(frozen=True)
class Run:
    """One training, as the oracle and as the tool saw it; ratios are sharpness / (2/η)."""

    ratio_first: float
    ratio_largest: float
    crossing: float | None
    ratio_late: float
    ritz_late: float
    rows: int
    overshoot: float
    covered: float
    at_edge: bool | None


def train(path: Path, rate: float, steps: int, seed: int) -> Run:
    descent = Descent(rate, steps, seed)
    result = analyzed(path, descent.rows(), ABOUT, ["sharpness"]).metrics["sharpness"]
    at = np.array(list(descent.exact))
    ratio = np.array(list(descent.exact.values())) * rate / 2
    crossed = at[ratio >= 1]
    rows, ritz, stated, limit = against_exact(result, descent.exact)
    return Run(
        ratio_first=ratio[0],
        ratio_largest=ratio.max(),
        crossing=float(crossed[0]) if len(crossed) else None,
        ratio_late=float(np.median(ratio[at >= 0.75 * steps])),
        ritz_late=float(np.median(ritz[rows >= 0.75 * steps] * rate / 2)),
        rows=len(rows),
        overshoot=float(np.max(ritz / limit) - 1),
        covered=float(np.mean(ritz - limit <= stated)),
        at_edge=result.summary["at_edge"],
    )


def against_exact(result: MetricResult, exact: dict[int, float]) -> np.ndarray:
    """Steps, Ritz values, their stated errors, and the largest sharpness in their windows.

    Returns:
        Float64, shape (4, n): the displacements whose every snapshot the oracle measured.
    """
    _, errors = of(result, "ritz_error")
    found = []
    for step, value, error in zip(*of(result, "ritz"), errors, strict=True):
        # A displacement from one burst to the next crosses steps that the oracle skipped.
        if step + 1 in exact and np.isfinite(value):
            window = range(max(step - WINDOW + 1, step // EVERY * EVERY), step + 2)
            found.append((step, value, error, max(exact[k] for k in window)))
    return np.array(found).T


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[float, list[Run]]:
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("edge") / "run.h5"
    found = {
        rate: [train(path, rate, steps, seed) for seed in SEEDS] for rate, steps in RATES.items()
    }
    table = Table(
        "edge_of_stability",
        "η", "2/η", "sharpness/(2/η) at the start", "largest", "first step ≥ 1",
        "median, last quarter", "the same by Ritz", "Ritz values", "largest Ritz overshoot",
        "within stated error", "`at_edge`",
    )  # fmt: skip
    for rate, each in found.items():
        table.add(
            f"{rate:g}", f"{2 / rate:.3g}",
            [r.ratio_first for r in each], [r.ratio_largest for r in each],
            [r.crossing for r in each], [r.ratio_late for r in each],
            [r.ritz_late for r in each], sum(r.rows for r in each),
            f"{max(r.overshoot for r in each):+.2%}", f"{np.mean([r.covered for r in each]):.2%}",
            ", ".join({True: "yes", False: "no", None: "null"}[r.at_edge] for r in each),
        )  # fmt: skip
    table.publish()
    return found


def test_sharpness_rises_to_the_threshold_and_hovers(runs: dict[float, list[Run]]) -> None:
    _, *reaching = runs.values()
    for run in (run for each in reaching for run in each):
        assert run.ratio_first < 0.8
        assert run.crossing is not None
        assert 0.97 < run.ratio_late < 1.05
        assert run.ratio_largest < 2
        assert run.at_edge is True


def test_a_rate_too_small_for_the_threshold_does_not_show_it(runs: dict[float, list[Run]]) -> None:
    for run in next(iter(runs.values())):
        assert run.ratio_first < run.ratio_largest < 0.5
        assert run.at_edge is not True


def test_the_ritz_value_is_the_sharpness_at_the_edge_and_never_claims_more(
    runs: dict[float, list[Run]],
) -> None:
    _, *reaching = runs.values()
    for run in (run for each in reaching for run in each):
        assert run.ritz_late == pytest.approx(run.ratio_late, abs=0.03)
    for run in (run for each in runs.values() for run in each):
        assert run.overshoot < 0.05
        assert run.covered > 0.995
