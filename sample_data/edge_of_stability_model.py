"""The loss of `edge_of_stability.h5` and its bare twin, for `trajfile analyze RUN --replay`.

    trajfile analyze edge_of_stability_bare.h5 --replay edge_of_stability_model.py:loss

A factory returns the loss as a function of the tensors that the run recorded, by their names.
This is that of `record_edge_of_stability.py`: the same network, the same 400 digits.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.func import functional_call


def loss():
    """The mean squared error over all 400 digits, as a function of a dict of tensors."""
    digits = load_digits()
    images = torch.tensor(digits.data)
    images -= images.mean(dim=0)
    directions = torch.linalg.svd(images, full_matrices=False).Vh[:8]
    inputs = (images @ directions.T)[:400]
    inputs /= inputs.std()
    targets = nn.functional.one_hot(torch.tensor(digits.target[:400])).double()
    model = nn.Sequential(
        nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 10)
    ).double()

    def loss_at(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        outputs = functional_call(model, tensors, (inputs,))
        return (outputs - targets).square().sum(dim=1).mean()

    return loss_at
