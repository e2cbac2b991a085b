"""Tiny trainings by PyTorch's own optimizers, recorded by the writer as a user would.

Networks in float64, so that what a law leaves over is not rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import trajfile

Tensors = dict[str, torch.Tensor]
Loss = Callable[[Tensors, torch.Tensor], torch.Tensor]
Net = Callable[[torch.Generator], tuple[Tensors, Loss]]


class Lion(torch.optim.Optimizer):
    """Sign of an interpolated mean gradient, decoupled decay: an optimizer trajfile has no law of.

    Form after arXiv 2302.06675.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.99), "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(group["lr"] * torch.sign(first * mean + (1 - first) * p.grad))
                mean.mul_(second).add_(p.grad, alpha=1 - second)


#: What is stated of each optimizer in the file, beside its learning rate, and what makes it.
OPTIMIZERS: dict[str, tuple[dict[str, Any], type[torch.optim.Optimizer]]] = {
    "sgd": ({"name": "SGD", "momentum": 0.0}, torch.optim.SGD),
    "momentum": ({"name": "SGD", "momentum": 0.9}, torch.optim.SGD),
    "dampened": ({"name": "SGD", "momentum": 0.8, "dampening": 0.5}, torch.optim.SGD),
    "nesterov": ({"name": "SGD", "momentum": 0.9, "nesterov": True}, torch.optim.SGD),
    "adam": ({"name": "Adam", "betas": (0.9, 0.99)}, torch.optim.Adam),
    "adamw": ({"name": "AdamW", "betas": (0.9, 0.99)}, torch.optim.AdamW),
    "lion": ({"name": "Lion"}, Lion),
}


def make(
    which: str, params: Iterable[torch.Tensor], rate: float, decay: float = 0.0
) -> tuple[torch.optim.Optimizer, dict[str, Any]]:
    """One of PyTorch's optimizers (or Lion), and what its run states of it."""
    stated, kind = OPTIMIZERS[which]
    arguments = {key: value for key, value in stated.items() if key != "name"}
    made = kind(params, lr=rate, weight_decay=decay, **arguments)
    return made, stated | {"weight_decay": decay}


def normalised(generator: torch.Generator) -> tuple[Tensors, Loss]:
    """Two layers, each before a normalisation over the batch, and a fixed head: scale-invariant."""
    head = torch.randn(3, 8, generator=generator, dtype=torch.float64) / 2
    theta = {
        "first": torch.randn(8, 6, generator=generator, dtype=torch.float64),
        "second": torch.randn(8, 8, generator=generator, dtype=torch.float64),
    }

    def whiten(hidden: torch.Tensor) -> torch.Tensor:
        centred = hidden - hidden.mean(0)
        return centred / centred.square().mean(0).sqrt()

    def loss(theta: Tensors, inputs: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(whiten(inputs @ theta["first"].T))
        outputs = whiten(hidden @ theta["second"].T) @ head.T
        return (outputs - torch.sin(2 * inputs[:, :3])).square().mean()

    return theta, loss


def linear(generator: torch.Generator) -> tuple[Tensors, Loss]:
    """Two linear layers, to which the law of the imbalance applies."""
    theta = {
        "first": torch.randn(5, 6, generator=generator, dtype=torch.float64) / 2,
        "second": torch.randn(3, 5, generator=generator, dtype=torch.float64) / 4,
    }
    goal = torch.randn(3, 6, generator=generator, dtype=torch.float64) / 2

    def loss(theta: Tensors, inputs: torch.Tensor) -> torch.Tensor:
        return (inputs @ (theta["second"] @ theta["first"] - goal).T).square().mean()

    return theta, loss


class Trained:
    """A training, made as far as it is asked for and kept: several runs record the same.

    Args:
        which: Key of `OPTIMIZERS`.
        net: Its initial tensors and its loss.
        rate: Learning rate.
        decay: Weight decay.
        batch: Examples in a mini-batch of the 64; None for all of them.
    """

    def __init__(self, which: str, net: Net, rate: float, decay: float, batch: int | None) -> None:
        self._made: list[tuple[float, dict[str, Tensors]]] = []
        self._going = self._steps(which, net, rate, decay, batch)

    def first(self, steps: int) -> list[tuple[float, dict[str, Tensors]]]:
        """Loss and tensors of the first steps, by stream."""
        self._made += islice(self._going, max(0, steps - len(self._made)))
        return self._made[:steps]

    @staticmethod
    def _steps(
        which: str, net: Net, rate: float, decay: float, batch: int | None
    ) -> Iterator[tuple[float, dict[str, Tensors]]]:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(64, 6, generator=generator, dtype=torch.float64)
        theta, loss = net(generator)
        for tensor in theta.values():
            tensor.requires_grad_(True)
        optimizer, _ = make(which, theta.values(), rate, decay)
        while True:
            drawn = inputs
            if batch is not None:
                drawn = inputs[torch.randperm(len(inputs), generator=generator)[:batch]]
            optimizer.zero_grad()
            value = loss(theta, drawn)
            value.backward()
            before = {name: tensor.detach().clone() for name, tensor in theta.items()}
            gradients = {name: tensor.grad.clone() for name, tensor in theta.items()}
            optimizer.step()
            updates = {n: (before[n] - theta[n].detach()) / rate for n in theta}
            held = {"params": before, "gradients": gradients, "updates": updates}
            yield value.item(), held


trained = cache(Trained)


def train(
    path: Path,
    which: str,
    *,
    net: Net = normalised,
    rate: float,
    decay: float = 0.0,
    steps: int = 200,
    batch: int | None = None,
    streams: tuple[str, ...] = ("params", "gradients"),
    stated: dict[str, Any] | None = None,
    groups: dict[str, list[str]] | None = None,
) -> Path:
    """Train and record a run.

    Args:
        path: Where the run goes.
        which: Key of `OPTIMIZERS`.
        net: Its initial tensors and its loss.
        rate: Learning rate.
        decay: Weight decay.
        steps: Steps recorded.
        batch: Examples in a mini-batch of the 64; all of them by default.
        streams: What is recorded beside loss and learning rate.
        stated: What the file says of the optimizer, if not the truth.
        groups: Groups that the file declares.

    Returns:
        The path.
    """
    torch.set_num_threads(1)
    _, truth = make(which, [torch.zeros(1)], rate, decay)
    source = {"source": "full_batch"} if batch is None else {"source": "mini_batch"}
    with trajfile.Writer(
        path,
        optimizer=truth if stated is None else stated,
        gradient={"stage": "raw", **source},
        groups=groups or {},
    ) as writer:
        for step, (value, held) in enumerate(trained(which, net, rate, decay, batch).first(steps)):
            writer.append(
                step,
                scalars={"loss": value, "learning_rate": rate},
                **{name: held[name] for name in streams},
            )
    return path
