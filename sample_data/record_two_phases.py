"""Record the two phases of a deep linear network under weight decay.

First the loss falls and the layers keep their imbalance; once the loss is at its floor, weight
decay alone is left and the imbalance decays like exp(-2 lr weight_decay step). Full-batch
gradient descent, float64. After arXiv 2007.09286.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import trajfile

STEPS, LEARNING_RATE, WEIGHT_DECAY = 4000, 0.5, 1e-3


def recorded(step: int) -> bool:
    """Every step while the loss falls, then two adjacent steps out of fifty."""
    return step < 100 or step % 50 < 2


def record(path: Path) -> None:
    """Regress the digits' classes on their eight principal components through three layers."""
    torch.manual_seed(1)
    torch.set_num_threads(1)  # one order of summation: the run repeats to the bit
    digits = load_digits()
    images = torch.tensor(digits.data)
    images -= images.mean(dim=0)
    components = torch.linalg.svd(images, full_matrices=False).U[:, :8]
    inputs = components * len(images) ** 0.5  # white: every direction has variance 1
    targets = 2 * nn.functional.one_hot(torch.tensor(digits.target)).double()
    targets -= targets.mean(dim=0)

    model = nn.Sequential(
        nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False), nn.Linear(8, 10, bias=False)
    ).double()
    for layer in model:
        nn.init.normal_(layer.weight, std=0.5 / 8**0.5)
    params = dict(model.named_parameters())
    optimizer = torch.optim.SGD(params.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    with trajfile.Writer(
        path,
        mode="w",
        optimizer={"name": "SGD", "weight_decay": WEIGHT_DECAY, "momentum": 0.0},
        groups={"layers": list(params)},
        gradient={"stage": "raw", "source": "full_batch", "dataset_size": len(inputs)},
        metadata={"data": "scikit-learn's digits, whitened", "model": "deep linear 8-8-8-10"},
    ) as run:
        for step in range(STEPS + 2):
            optimizer.zero_grad()
            loss = (model(inputs) - targets).square().sum(dim=1).mean() / 2
            loss.backward()
            if recorded(step):
                run.append(
                    step,
                    params=params,
                    gradients={n: p.grad for n, p in params.items()},
                    scalars={"loss": loss.item(), "learning_rate": LEARNING_RATE},
                )
            optimizer.step()


if __name__ == "__main__":
    record(Path(__file__).with_name("two_phases.h5"))
