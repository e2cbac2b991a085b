"""Gradients by parameters that are spread over processes, with no trace left in the training.

FSDP2 computes with parameters that it puts together for the moment, which the sharded ones have no
graph to: only a backward pass through its own hooks reduces gradients and hands each process its
shards, in `grad`. So `grad` is emptied before, for every leaf of the graph and every parameter of
the model, and put back afterwards, and so are hooks that would act on it, such as those of an
optimizer that runs in the backward pass. A second set of shards is held meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn

from trajfile.errors import UsageError
from trajfile.recorders.torch_names import inner_model


def gradients_of_shards(
    loss: torch.Tensor, every: Iterable[nn.Parameter], parameters: Sequence[nn.Parameter]
) -> list[torch.Tensor | None]:
    """The gradients of a loss, reduced over the processes; all of them must call this together.

    Args:
        loss: The loss of this process.
        every: All parameters of the model, as they were before the loss was computed: afterwards
            FSDP2 may leave others in their place until the backward pass.
        parameters: Those to differentiate by.

    Returns:
        This process's shards of each; None for a parameter that the loss does not depend on.

    Raises:
        UsageError: If gradients are not being reduced.
    """
    leaves = {id(leaf): leaf for leaf in [*every, *_leaves(loss)]}
    with _emptied(leaves.values()):
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in parameters]
    if parameters and all(gradient is None for gradient in gradients):
        raise UsageError(
            "no parameter got a gradient from sample_loss: it depends on none of them, or the "
            "model's gradients are not reduced now; call set_requires_gradient_sync(True) before "
            "the optimizer's step"
        )
    return gradients


@contextmanager
def without_pending(model: nn.Module, *, spread: bool) -> Iterator[None]:
    """Leave nothing behind of a draw that fails half-way.

    Args:
        model: The model.
        spread: Whether its parameters are spread over processes.

    Yields:
        Nothing.
    """
    try:
        yield
    except BaseException:
        if spread:
            _give_up_passes(model)
        raise


def _give_up_passes(model: nn.Module) -> None:
    """Have FSDP2 forget a forward pass that no backward pass follows, and shard again."""
    from torch.distributed.fsdp import FSDPModule

    for module in inner_model(model).modules():
        if isinstance(module, FSDPModule):
            # Versions without the first do but the second.
            reset: Any = getattr(module, "reset_iter_state", module.reshard)
            with suppress(RuntimeError):  # of one within another, whose turn it is
                reset()


@contextmanager
def _emptied(leaves: Iterable[torch.Tensor]) -> Iterator[None]:
    kept = [(leaf, leaf.grad, leaf._post_accumulate_grad_hooks) for leaf in leaves]
    for leaf, _, hooks in kept:
        leaf.grad = None
        if hooks:
            leaf._post_accumulate_grad_hooks = {}
    try:
        yield
    finally:
        for leaf, gradient, hooks in kept:
            leaf.grad = gradient
            if hooks:
                leaf._post_accumulate_grad_hooks = hooks


def _leaves(value: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors whose `grad` a backward pass from a value adds to."""
    pending: list[Any] = [value.grad_fn]
    seen = set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith("AccumulateGrad"):
            yield node.variable
        pending.extend(following for following, _ in node.next_functions)
