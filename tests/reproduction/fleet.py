"""Many small normalised networks trained side by side: a whole grid of settings in one loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from tests.reproduction.study import digits

NAMES = ("0.weight", "1.weight")
BATCH = 128


class Fleet:
    """MLPs 64-w-w-10 on scikit-learn's digits, one per seed given, each with its own weights.

    Both trained layers are followed by BatchNorm without affine, so their loss does not depend on
    the norm of either; the last layer is frozen at a given norm. The networks see the same
    batches and share nothing else: the gradient of the sum of their losses is each one's own.

    Attributes:
        weights: Two trained tensors, float32, shapes (runs, w, 64) and (runs, w, w).
        examples: How many digits there are to learn.
    """

    def __init__(
        self, seeds: Sequence[int], width: int, readout_norm: float, examples: int | None = None
    ):
        images, labels = digits()
        chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:examples]
        self._images = images[chosen] - images[chosen].mean(dim=0)
        self._labels = labels[chosen]
        self._batches = torch.Generator().manual_seed(1)
        self.examples = len(chosen)
        first, second, readout = (
            torch.stack(layers)
            for layers in zip(*(_drawn(seed, width) for seed in seeds), strict=True)
        )
        self.weights = [first.requires_grad_(), second.requires_grad_()]
        self._readout = readout * (readout_norm / readout.flatten(1).norm(dim=1))[:, None, None]

    def slopes(self) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
        """Losses (runs,) on the next batch, and the gradients there, shaped as the weights."""
        batch = torch.randint(self.examples, (BATCH,), generator=self._batches)
        units = self._images[batch].T.expand(len(self._readout), -1, -1)
        for weight in self.weights:
            units = weight @ units
            variance, mean = torch.var_mean(units, dim=2, keepdim=True, correction=0)
            units = ((units - mean) * torch.rsqrt(variance + 1e-5)).relu()
        wanted = self._labels[batch].expand(len(self._readout), -1)
        scores = self._readout @ units
        losses = functional.cross_entropy(scores, wanted, reduction="none").mean(dim=1)
        return losses.detach(), torch.autograd.grad(losses.sum(), self.weights)

    def squares(self) -> torch.Tensor:
        """ρ² of each network's trained weights, shape (runs,)."""
        return sum_squares([weight.detach() for weight in self.weights])


def sum_squares(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Squared norm of each network's share in tensors whose first axis counts the networks."""
    return torch.stack([tensor.square().flatten(1).sum(dim=1) for tensor in tensors]).sum(dim=0)


def one(tensors: Sequence[torch.Tensor], run: int) -> dict[str, torch.Tensor]:
    """The tensors of one network, by name."""
    return {name: tensor[run] for name, tensor in zip(NAMES, tensors, strict=True)}


def about(decay: float, examples: int) -> dict[str, Any]:
    """What the writer is told of one network of a fleet."""
    return {
        "optimizer": {"name": "SGD", "weight_decay": decay, "momentum": 0.0},
        "groups": {"scale_invariant": list(NAMES)},
        "gradient": {
            "stage": "raw",
            "source": "mini_batch",
            "batch_size": BATCH,
            "dataset_size": examples,
        },
    }


def _drawn(seed: int, width: int) -> list[torch.Tensor]:
    """Layers drawn uniformly, as PyTorch draws them by default."""
    source = torch.Generator().manual_seed(seed)
    shapes = [(width, 64), (width, width), (10, width)]
    return [(2 * torch.rand(shape, generator=source) - 1) / shape[1] ** 0.5 for shape in shapes]
