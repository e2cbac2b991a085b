"""Record the three regimes of training on a sphere, at three effective learning rates.

All trained weights are followed by BatchNorm, so only their direction matters. After each step
they are put back on the sphere they started from: the norm is constant, and the effective
learning rate lr / norm**2 is exactly the one that is set. A small one converges, a middle one
settles at a noise level (chaotic equilibrium), a large one never leaves the level of random
weights (divergence). After arXiv 2209.03695.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import trajfile

WIDTH, BATCH, STEPS, EVERY = 24, 128, 2000, 25
REGIMES = {"convergence": 3e-4, "equilibrium": 0.1, "divergence": 1.0}


def record(path: Path, effective_learning_rate: float) -> None:
    """Train on the digits on the sphere and record snapshots and gradients."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one order of summation: the run repeats to the bit
    digits = load_digits()
    images = torch.tensor(digits.data / 16, dtype=torch.float32)
    images -= images.mean(dim=0)
    labels = torch.tensor(digits.target)

    def normalised(width_in: int) -> list[nn.Module]:
        return [
            nn.Linear(width_in, WIDTH, bias=False),
            nn.BatchNorm1d(WIDTH, affine=False, track_running_stats=False),
            nn.ReLU(),
        ]

    readout = nn.Linear(WIDTH, 10, bias=False).requires_grad_(False)  # frozen, at norm 7
    readout.weight.mul_(7 / readout.weight.norm())
    model = nn.Sequential(*normalised(64), *normalised(WIDTH), readout)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def norm() -> float:
        return float(torch.cat([p.detach().flatten() for p in trained.values()]).norm())

    radius = norm()
    learning_rate = effective_learning_rate * radius**2
    optimizer = torch.optim.SGD(trained.values(), lr=learning_rate)

    with trajfile.Writer(
        path,
        mode="w",
        optimizer={"name": "SGD", "weight_decay": 0.0, "momentum": 0.0, "projected": "sphere"},
        groups={"scale_invariant": list(trained)},
        gradient={
            "stage": "raw",
            "source": "mini_batch",
            "batch_size": BATCH,
            "dataset_size": len(labels),
        },
        metadata={"data": "scikit-learn's digits", "model": "MLP 64-24-24-10, BatchNorm"},
    ) as run:
        for step in range(STEPS + 1):
            batch = torch.randint(len(labels), (BATCH,))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            snapshot = step < 3 or step % EVERY == 0  # the start tells the loss of random weights
            if snapshot or step % 5 == 0:
                run.append(
                    step,
                    params=trained if snapshot else None,
                    gradients={n: p.grad for n, p in trained.items()} if snapshot else None,
                    scalars={"loss": loss.item(), "learning_rate": learning_rate},
                )
            optimizer.step()
            with torch.no_grad():
                stretch = radius / norm()
                for tensor in trained.values():
                    tensor *= stretch


if __name__ == "__main__":
    for regime, rate in REGIMES.items():
        record(Path(__file__).with_name(f"three_regimes_{regime}.h5"), rate)
