"""Record a run whose updates point along its trajectory, and one whose updates do not.

The same network from the same start: once with momentum and a moderate step, once with a step
far too large on batches of eight, which stays at the loss of guessing. The updates themselves
are recorded, as the regularity principle is about them (arXiv 2011.06702).
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import trajfile

STEPS = 120
SETTINGS = {
    "aligned": {"lr": 0.05, "momentum": 0.9, "batch_size": 128},
    "misaligned": {"lr": 1.0, "momentum": 0.0, "batch_size": 8},
}


def record(path: Path, lr: float, momentum: float, batch_size: int) -> None:
    """Train with SGD and record every step's parameters and update."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one order of summation: the run repeats to the bit
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    params = dict(model.named_parameters())
    optimizer = torch.optim.SGD(params.values(), lr=lr, momentum=momentum)

    with trajfile.Writer(
        path,
        mode="w",
        optimizer={"name": "SGD", "weight_decay": 0.0, "momentum": momentum},
        metadata={"data": "scikit-learn's digits", "model": "MLP 64-16-10, ReLU"},
    ) as run:
        for step in range(STEPS):
            batch = torch.randint(len(labels), (batch_size,))
            before = {name: p.detach().clone() for name, p in params.items()}
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            run.append(
                step,
                params=before,
                updates={
                    name: optimizer.state[p]["momentum_buffer"] if momentum else p.grad
                    for name, p in params.items()
                },
                scalars={"loss": loss.item(), "learning_rate": lr},
            )
        run.append(STEPS, params=params)


if __name__ == "__main__":
    for name, setting in SETTINGS.items():
        record(Path(__file__).with_name(f"{name}.h5"), **setting)
