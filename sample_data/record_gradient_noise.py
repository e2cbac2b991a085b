"""Record the covariance of mini-batch gradients along two trainings, at two learning rates.

Every fifty steps the parameters are held still and the gradients of twelve mini-batches are
recorded. Their covariance K is what arXiv 2002.09572 follows through training.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import trajfile

STEPS, EVERY, BATCH, SAMPLES = 1000, 50, 32, 12
RATES = {"small": 0.1, "large": 0.3}


def record(path: Path, learning_rate: float) -> None:
    """Train a small network on the digits and record gradient samples."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one order of summation: the run repeats to the bit
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    model = nn.Sequential(
        nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)
    )
    params = dict(model.named_parameters())
    optimizer = torch.optim.SGD(params.values(), lr=learning_rate)

    def backward() -> torch.Tensor:
        batch = torch.randperm(len(labels))[:BATCH]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        return loss.detach()

    def sample() -> dict[str, torch.Tensor]:
        draws = []
        for _ in range(SAMPLES):
            backward()
            draws.append({name: p.grad.clone() for name, p in params.items()})
        return {name: torch.stack([draw[name] for draw in draws]) for name in params}

    with trajfile.Writer(
        path,
        mode="w",
        optimizer={"name": "SGD", "weight_decay": 0.0, "momentum": 0.0},
        gradient={
            "stage": "raw",
            "source": "mini_batch",
            "batch_size": BATCH,
            "dataset_size": len(labels),
        },
        metadata={"data": "scikit-learn's digits", "model": "MLP 64-16-16-10, ReLU"},
    ) as run:
        for step in range(STEPS + 1):
            due = step % EVERY == 0
            samples = sample() if due else None
            loss = backward()
            run.append(
                step,
                params=params if due else None,
                gradients={n: p.grad for n, p in params.items()} if due else None,
                gradient_samples=samples,
                scalars={"loss": loss.item(), "learning_rate": learning_rate},
            )
            optimizer.step()


if __name__ == "__main__":
    for size, rate in RATES.items():
        record(Path(__file__).with_name(f"gradient_noise_lr_{size}.h5"), rate)
