"""Gradients of several mini-batches at frozen parameters, with no trace left in the training.

Drawing them runs the model forward and backward. What that would change is put back: buffers such
as the running statistics of BatchNorm, the random states of Python, NumPy, the CPU and the
accelerators, and `grad`, which is never written to at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from trajfile.errors import UsageError
from trajfile.recorders.torch_names import inner_model

SampleLoss = Callable[[int], Any]
"""Takes the number of a sample, 0 and on, and returns the loss of a fresh mini-batch."""


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put buffers and random states back afterwards, whatever happens inside.

    Args:
        model: The model whose buffers are kept.

    Yields:
        Nothing.
    """
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # whoever uses it
    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if cuda else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)


def draw_samples(
    model: nn.Module, tensors: Mapping[str, nn.Parameter], loss: SampleLoss, count: int
) -> dict[str, torch.Tensor]:
    """Draw gradients.

    Args:
        model: The model, whose parameters do not move meanwhile.
        tensors: The parameters to differentiate by.
        loss: The loss of mini-batch number i; it must run the model as training does.
        count: Mini-batches.

    Returns:
        By name, shape (count, *shape), in host memory, so that a device holds one sample at a
        time; zero for a parameter that a loss does not depend on.

    Raises:
        UsageError: If the loss is not a single number with a graph.
    """
    tensors = {name: p for name, p in tensors.items() if p.requires_grad}
    drawn: dict[str, torch.Tensor] = {}
    with untouched(inner_model(model)), torch.enable_grad():
        for index in range(count):
            value = loss(index)
            if not isinstance(value, torch.Tensor) or value.ndim or not value.requires_grad:
                raise UsageError(
                    f"sample_loss({index}) returned {type(value).__name__} "
                    f"{getattr(value, 'shape', '')}, expected a loss without axes that depends on "
                    "the model's parameters, neither detached nor turned into a number"
                )
            gradients = torch.autograd.grad(value, list(tensors.values()), allow_unused=True)
            for (name, parameter), gradient in zip(tensors.items(), gradients, strict=True):
                if index == 0:
                    drawn[name] = torch.zeros(count, *parameter.shape, dtype=parameter.dtype)
                if gradient is not None:
                    drawn[name][index].copy_(gradient)
    return drawn
