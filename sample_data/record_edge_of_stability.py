"""Record full-batch gradient descent at the edge of stability, with and without its sharpness.

The largest eigenvalue of the loss Hessian (the sharpness) rises while the loss falls, until it
reaches 2 / lr, where a step along its eigenvector no longer shrinks the error. It does not
diverge: the sharpness hovers there (arXiv 2103.00065). The network is small enough to measure the
sharpness exactly; one of the two files holds it as a scalar, the other leaves the tool to find
a lower bound from the steps alone.
"""

from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call, hessian

import trajfile

STEPS, LEARNING_RATE, HIDDEN = 2000, 0.3, 8


def record(measured: Path, bare: Path) -> None:
    """Train once and record bursts of ten consecutive steps out of fifty into both files."""
    torch.manual_seed(0)
    torch.set_num_threads(1)  # one order of summation: the run repeats to the bit
    digits = load_digits()
    images = torch.tensor(digits.data)
    images -= images.mean(dim=0)
    directions = torch.linalg.svd(images, full_matrices=False).Vh[:8]
    inputs = (images @ directions.T)[:400]
    inputs /= inputs.std()
    targets = nn.functional.one_hot(torch.tensor(digits.target[:400])).double()

    model = nn.Sequential(
        nn.Linear(8, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 10)
    ).double()
    params = dict(model.named_parameters())
    optimizer = torch.optim.SGD(params.values(), lr=LEARNING_RATE)

    def loss_at(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        outputs = functional_call(model, tensors, (inputs,))
        return (outputs - targets).square().sum(dim=1).mean()

    def sharpness() -> torch.Tensor:
        at = {name: p.detach() for name, p in params.items()}
        blocks = hessian(loss_at)(at)
        size = {name: p.numel() for name, p in params.items()}
        rows = [
            torch.cat([blocks[a][b].reshape(size[a], size[b]) for b in params], 1) for a in params
        ]
        return torch.linalg.eigvalsh(torch.cat(rows))[-1]

    about = {
        "mode": "w",
        "optimizer": {"name": "SGD", "weight_decay": 0.0, "momentum": 0.0},
        "gradient": {"stage": "raw", "source": "full_batch", "dataset_size": len(inputs)},
        "metadata": {"data": "400 of scikit-learn's digits", "model": "MLP 8-8-8-10, tanh"},
    }
    with trajfile.Writer(measured, **about) as run, trajfile.Writer(bare, **about) as bare_run:
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = loss_at(params)
            loss.backward()
            if step % 50 < 10:
                row = {"params": params, "gradients": {n: p.grad for n, p in params.items()}}
                scalars = {"loss": loss.item(), "learning_rate": LEARNING_RATE}
                bare_run.append(step, **row, scalars=scalars)
                if step % 50 in {0, 9}:
                    scalars["sharpness"] = sharpness()
                run.append(step, **row, scalars=scalars)
            optimizer.step()


if __name__ == "__main__":
    here = Path(__file__).parent
    record(here / "edge_of_stability.h5", here / "edge_of_stability_bare.h5")
