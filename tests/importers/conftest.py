"""A small training whose state is saved as other programs save it."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import pytest
import torch


class Snapshot(NamedTuple):
    """A training after some updates: the model's state dict and the optimizer's, copied."""

    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 4),
        torch.nn.BatchNorm1d(4),
        torch.nn.Tanh(),
        torch.nn.Linear(4, 3),
    )


@pytest.fixture(scope="session")
def training() -> dict[int, Snapshot]:
    """Snapshots after 0, 5, 10, 100 updates of AdamW; the first has no optimizer state."""
    model = network()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for n, p in model.named_parameters() if "weight" in n]},
            {"params": [p for n, p in model.named_parameters() if "bias" in n]},
        ],
        lr=1e-2,
        betas=(0.8, 0.9),
    )
    saved = {}
    for step in range(101):
        if step in {0, 5, 10, 100}:
            saved[step] = copy.deepcopy(Snapshot(model.state_dict(), optimizer.state_dict()))
        loss = model(torch.randn(8, 6)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return saved


@pytest.fixture(scope="session")
def params(training: dict[int, Snapshot]) -> dict[int, dict[str, torch.Tensor]]:
    """What of the snapshots is a parameter."""
    return {
        step: {
            name: value
            for name, value in saved.model.items()
            if "running" not in name and "num_" not in name
        }
        for step, saved in training.items()
    }
