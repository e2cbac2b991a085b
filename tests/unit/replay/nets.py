"""A network small enough for a dense Hessian, trained and recorded, and its loss."""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call, hessian

import trajfile


def network(dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def data(dtype=torch.float64, rows=24):
    source = torch.Generator().manual_seed(7)
    inputs = torch.randn(rows, 4, generator=source, dtype=torch.float64)
    targets = torch.stack([inputs[:, 0].sin(), inputs[:, 1] * inputs[:, 2]], dim=1)
    return inputs.to(dtype), targets.to(dtype)


def loss_on(model, inputs, targets):
    def loss(tensors):
        return (functional_call(model, tensors, (inputs,)) - targets).square().mean()

    return loss


def dense(loss, tensors):
    """The Hessian as one matrix, tensors laid end to end."""
    blocks = hessian(loss)(tensors)
    rows = [
        torch.cat(
            [blocks[a][b].reshape(tensors[a].numel(), tensors[b].numel()) for b in tensors], 1
        )
        for a in tensors
    ]
    return torch.cat(rows)


def flat(tensors):
    return torch.cat([t.detach().double().reshape(-1) for t in tensors.values()])


def train(path, optimizer="SGD", steps=20, every=1, dtype=torch.float64, gradients=True, **options):
    """Train on the full batch and record; returns the loss as a function of tensors."""
    model = network(dtype)
    loss = loss_on(model, *data(dtype))
    params = dict(model.named_parameters())
    adam = optimizer != "SGD"
    options = {"lr": 0.05} | options
    engine = getattr(torch.optim, optimizer)(params.values(), **options)
    about = {"name": optimizer, **{k: v for k, v in options.items() if k != "lr"}}
    if adam:
        about.setdefault("betas", [0.9, 0.999])
    with trajfile.Writer(
        path, optimizer=about, gradient={"stage": "raw", "source": "full_batch"},
        metadata={"note": "tiny"},
    ) as writer:  # fmt: skip
        if adam:
            writer.declare("params", like=params)
            writer.declare("gradients", like=params)
        for step in range(steps):
            engine.zero_grad()
            value = loss(params)
            value.backward()
            row = {"params": params}
            if gradients:
                row["gradients"] = {n: p.grad for n, p in params.items()}
            if adam and step:
                row["optimizer"] = {
                    slot: {n: engine.state[p][slot] for n, p in params.items()}
                    for slot in ("exp_avg", "exp_avg_sq")
                }
            scalars = {"loss": value.item(), "learning_rate": options["lr"]}
            writer.append(step, scalars=scalars, **(row if step % every == 0 else {}))
            engine.step()
    return loss
