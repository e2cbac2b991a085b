"""Gradients of several mini-batches at frozen parameters, with no trace left in the training.

Drawing them runs the model forward and backward. What that would change is put back: buffers such
as the running statistics of BatchNorm, the random states of Python, NumPy, the CPU and the
accelerators. `grad` is never written to, but where parameters are spread over processes: see
`trajfile.recorders.torch_sharded`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from trajfile.errors import UsageError
from trajfile.recorders.torch_gather import Gather
from trajfile.recorders.torch_names import inner_model
from trajfile.recorders.torch_sharded import gradients_of_shards, without_pending

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
    model: nn.Module,
    tensors: Mapping[str, nn.Parameter],
    loss: SampleLoss,
    count: int,
    gather: Gather,
) -> dict[str, torch.Tensor]:
    """Draw gradients.

    Args:
        model: The model, whose parameters do not move meanwhile.
        tensors: The parameters to differentiate by.
        loss: The loss of mini-batch number i; it must run the model as training does.
        count: Mini-batches.
        gather: Brings shards together. Of spread parameters every process must draw, each with a
            loss of its own, and a sample is the mean of their gradients, as in training.

    Returns:
        By name, shape (count, *shape), in host memory, so that a device holds one sample at a
        time; zero for a parameter that a loss does not depend on. Empty where nothing is written.

    Raises:
        UsageError: If the loss is not a single number with a graph, here or in another process.
    """
    tensors = {name: p for name, p in tensors.items() if p.requires_grad}
    drawn: dict[str, torch.Tensor] = {}
    if gather.writes:
        drawn = {n: torch.zeros(count, *p.shape, dtype=p.dtype) for n, p in tensors.items()}
    parameters, every = list(tensors.values()), list(inner_model(model).parameters())
    with ExitStack() as stack:
        stack.enter_context(untouched(inner_model(model)))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(without_pending(model, spread=gather.sharded))
        stack.enter_context(_alone(model))
        for index in range(count):
            value = _loss(loss, index, gather)
            gradients = (
                gradients_of_shards(value, every, parameters)
                if gather.sharded
                else torch.autograd.grad(value, parameters, allow_unused=True)
            )
            _keep(index, gradients, drawn, tensors, gather)
            del gradients
    return drawn


@contextmanager
def _alone(model: nn.Module) -> Iterator[None]:
    """Let this process run a model of DistributedDataParallel without the others, who do not."""
    inside = model
    while isinstance(wrapped := getattr(inside, "_orig_mod", None), nn.Module):
        inside = wrapped
    if not isinstance(inside, nn.parallel.DistributedDataParallel):
        yield
        return
    kept = inside.require_forward_param_sync  # it would send buffers to the others
    inside.require_forward_param_sync = False
    try:
        with inside.no_sync():
            yield
    finally:
        inside.require_forward_param_sync = kept


def _keep(
    index: int,
    gradients: Sequence[torch.Tensor | None],
    drawn: dict[str, torch.Tensor],
    names: Iterable[str],
    gather: Gather,
) -> None:
    for name, gradient in zip(names, gradients, strict=True):
        whole = None if gradient is None else gather.whole(gradient)
        if whole is not None:
            drawn[name][index].copy_(whole)


def _loss(loss: SampleLoss, index: int, gather: Gather) -> torch.Tensor:
    """A loss that can be differentiated; if one process has none, all of them fail alike."""
    failure: Exception | None = None
    value = None
    try:
        value = loss(index)
    except Exception as error:  # the user's code may raise anything
        failure = error
    else:
        if not isinstance(value, torch.Tensor) or value.ndim or not value.requires_grad:
            failure = UsageError(
                f"sample_loss({index}) returned {type(value).__name__} "
                f"{getattr(value, 'shape', '')}, expected a loss without axes that depends on "
                "the model's parameters, neither detached nor turned into a number"
            )
    well = gather.all_well(failure is None)
    if failure is not None:
        raise failure
    if not well:
        raise UsageError(f"sample_loss({index}) failed in another process, which says why")
    assert isinstance(value, torch.Tensor)
    return value
