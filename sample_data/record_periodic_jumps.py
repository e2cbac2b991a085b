"""Record the periodic jumps of BatchNorm with weight decay, and a control without the decay.

A network whose trained weights are all followed by BatchNorm computes the same function at any
norm of them. Weight decay shrinks the norm, the effective learning rate lr / norm**2 grows, until
one step overshoots: the loss spikes, a large gradient throws the norm up, and it starts again
(arXiv 2106.15739). Without weight decay the norm can only grow and there are no jumps.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import trajfile

WIDTH, BATCH, LEARNING_RATE = 24, 128, 0.03


def record(path: Path, weight_decay: float, steps: int, every: int) -> None:
    """Train on 384 digits and record a snapshot every `every` steps, a gradient every fourth."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one order of summation: the run repeats to the bit
    digits = load_digits()
    picked = torch.randperm(len(digits.target))[:384]
    images = torch.tensor(digits.data / 16, dtype=torch.float32)[picked]
    labels = torch.tensor(digits.target)[picked]
    images -= images.mean(dim=0)

    def normalised(width_in: int) -> list[nn.Module]:
        return [
            nn.Linear(width_in, WIDTH, bias=False),
            nn.BatchNorm1d(WIDTH, affine=False, track_running_stats=False),
            nn.ReLU(),
        ]

    readout = nn.Linear(WIDTH, 10, bias=False).requires_grad_(False)  # frozen, at norm 10
    readout.weight.mul_(10 / readout.weight.norm())
    model = nn.Sequential(*normalised(64), *normalised(WIDTH), readout)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=LEARNING_RATE, weight_decay=weight_decay)

    with trajfile.Writer(
        path,
        mode="w",
        optimizer={"name": "SGD", "weight_decay": weight_decay, "momentum": 0.0},
        groups={"scale_invariant": list(trained)},
        gradient={
            "stage": "raw",
            "source": "mini_batch",
            "batch_size": BATCH,
            "dataset_size": len(labels),
        },
        metadata={"data": "384 of scikit-learn's digits", "model": "MLP 64-24-24-10, BatchNorm"},
    ) as run:
        for step in range(steps):
            batch = torch.randint(len(labels), (BATCH,))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            if step % 10 == 0:
                run.append(
                    step,
                    params=trained if step % every == 0 else None,
                    gradients={n: p.grad for n, p in trained.items()}
                    if step % (4 * every) == 0
                    else None,
                    scalars={"loss": loss.item(), "learning_rate": LEARNING_RATE},
                )
            optimizer.step()
        run.append(steps, params=trained)


if __name__ == "__main__":
    here = Path(__file__).parent
    record(here / "periodic_jumps.h5", weight_decay=0.01, steps=20_000, every=100)
    record(here / "no_jumps.h5", weight_decay=0.0, steps=5_000, every=100)
