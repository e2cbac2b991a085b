"""arXiv 2002.09572: a larger learning rate meets the break-even point earlier.

Claimed of the covariance K of mini-batch gradients: a larger rate lowers the maximum of its top
eigenvalue λ₁ and raises λ*/λ₁, at equal accuracy. Held on convolutional networks of 124 000
parameters on the digits, each image shifted at random by up to one pixel, with and without
BatchNorm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.reproduction.study import Table, analyzed, digits, of

pytestmark = pytest.mark.slow

WIDTH, HIDDEN, BATCH, SAMPLES, STEPS, EVERY = 32, 256, 32, 12, 600, 20
RATES = {"plain": (0.01, 0.03, 0.1), "BatchNorm": (0.01, 0.05, 0.3)}
SEEDS = (0, 1, 2)
#: Training accuracy at which runs are compared; every run reaches it.
ACCURACY = 0.8
#: Rows of the running median: the top eigenvalue of twelve samples is noisy.
SMOOTH = 5


def network(kind: str) -> nn.Sequential:
    """Three convolutions and two linear layers; He's start without BatchNorm, PyTorch's with."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(outputs)] if kind == "BatchNorm" else []
        return [nn.Conv2d(inputs, outputs, 3, padding=1), *norm, nn.ReLU()]

    model = nn.Sequential(
        *block(1, WIDTH), *block(WIDTH, 2 * WIDTH), nn.MaxPool2d(2),
        *block(2 * WIDTH, 2 * WIDTH), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10),
    )  # fmt: skip
    if kind == "plain":
        # From PyTorch's own start a plain net of this depth does not begin to learn at small rates.
        for layer in model:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
    return model


@dataclass
class Training:
    """SGD on shifted digits; every `EVERY` steps the gradients of `SAMPLES` batches at one θ."""

    kind: str
    rate: float
    seed: int
    accuracy: list[float] = field(default_factory=list)

    def rows(self) -> Iterator[dict[str, Any]]:
        torch.manual_seed(self.seed)
        draw = torch.Generator().manual_seed(self.seed)
        images, labels = digits()
        padded = nn.functional.pad(images.reshape(-1, 1, 8, 8), (1, 1, 1, 1))
        shifted = torch.stack(
            [padded[:, :, y : y + 8, x : x + 8] for y in range(3) for x in range(3)]
        )
        model = network(self.kind)
        params = dict(model.named_parameters())
        optimizer = torch.optim.SGD(params.values(), lr=self.rate)

        def backward() -> tuple[float, float]:
            chosen = torch.randint(len(labels), (BATCH,), generator=draw)
            shifts = torch.randint(len(shifted), (BATCH,), generator=draw)
            outputs = model(shifted[shifts, chosen])
            loss = nn.functional.cross_entropy(outputs, labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            return loss.item(), (outputs.argmax(1) == labels[chosen]).float().mean().item()

        for step in range(STEPS):
            if step % EVERY == 0:
                found, draws = [], []
                for _ in range(SAMPLES):
                    found.append(backward())
                    draws.append({name: p.grad.clone() for name, p in params.items()})
                loss, accuracy = np.mean(found, axis=0)
                self.accuracy.append(float(accuracy))
                samples = {name: torch.stack([d[name] for d in draws]) for name in params}
                scalars = {"loss": float(loss), "learning_rate": self.rate}
                yield {"step": step, "gradient_samples": samples, "scalars": scalars}
            backward()
            optimizer.step()


@dataclass(frozen=True)
class Run:
    """What the tool reports of one training, and where the studied accuracy is reached."""

    largest: float
    smoothed: float
    smoothed_at: float
    lambda_1: float
    conditioning: float
    reached: float
    final: float


def train(path: Path, kind: str, rate: float, seed: int) -> Run:
    training = Training(kind, rate, seed)
    about = {
        "optimizer": {"name": "SGD", "weight_decay": 0.0, "momentum": 0.0},
        "gradient": {"stage": "raw", "source": "mini_batch", "batch_size": BATCH},
    }
    result = analyzed(path, training.rows(), about, ["gradient_noise"]).metrics["gradient_noise"]
    steps, top = of(result, "lambda_1")
    steps, top = steps[SMOOTH // 2 : -(SMOOTH // 2)], smoothed(top)
    ratio, accuracy = smoothed(of(result, "conditioning")[1]), smoothed(training.accuracy)
    at = int(np.flatnonzero(accuracy >= ACCURACY)[0])
    return Run(
        largest=float(result.summary["lambda_1_max"]),
        smoothed=float(top.max()),
        smoothed_at=float(steps[top.argmax()]),
        lambda_1=float(top[at]),
        conditioning=float(ratio[at]),
        reached=float(steps[at]),
        final=float(accuracy[-1]),
    )


def smoothed(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Running median over whole windows: the first is past the start, which all rates share."""
    return np.median(np.lib.stride_tricks.sliding_window_view(values, SMOOTH), axis=1)


def study(kind: str, path: Path) -> list[list[Run]]:
    """Every seed at every rate of one network, smallest rate first, as a table too."""
    runs = [[train(path, kind, rate, seed) for seed in SEEDS] for rate in RATES[kind]]
    table = Table(
        f"break_even_{kind}".lower(),
        "η", "max λ₁", "max of smoothed λ₁", "its step", f"accuracy {ACCURACY} at step",
        "λ₁ there", "λ*/λ₁ there", "last accuracy",
    )  # fmt: skip
    for rate, each in zip(RATES[kind], runs, strict=True):
        table.add(
            f"{rate:g}", [r.largest for r in each], [r.smoothed for r in each],
            [r.smoothed_at for r in each], [r.reached for r in each],
            [r.lambda_1 for r in each], [r.conditioning for r in each],
            [r.final for r in each],
        )  # fmt: skip
    table.publish()
    return runs


def test_without_batch_norm_a_larger_rate_lowers_and_evens_out_the_covariance(
    tmp_path: Path,
) -> None:
    runs = study("plain", tmp_path / "run.h5")
    for slow, fast in pairwise(runs):
        assert min(r.smoothed for r in slow) > 1.5 * max(r.smoothed for r in fast)
        assert min(r.lambda_1 for r in slow) > 1.5 * max(r.lambda_1 for r in fast)
    # At neighbouring rates the seeds overlap; over the whole range they do not.
    assert max(r.conditioning for r in runs[0]) < min(r.conditioning for r in runs[-1])


def test_with_batch_norm_the_top_falls_but_the_spectrum_grows_less_even(tmp_path: Path) -> None:
    small, _, large = study("BatchNorm", tmp_path / "run.h5")
    assert min(r.smoothed for r in small) > 1.5 * max(r.smoothed for r in large)
    assert min(r.lambda_1 for r in small) > 1.5 * max(r.lambda_1 for r in large)
    # This half of the claim came out the other way round here.
    assert min(r.conditioning for r in small) > max(r.conditioning for r in large)
