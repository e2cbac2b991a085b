"""The names under which a PyTorch model's parameters are recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from trajfile.errors import UsageError

#: What wrappers put into the names of the parameters they wrap.
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


Outline = tuple[tuple[int, ...], torch.dtype]


@dataclass(frozen=True)
class Names:
    """The parameters of a model, each once.

    Attributes:
        tensors: By name as recorded, in the model's order.
        aliases: Further names of a tied parameter, and the name it is recorded under.
    """

    tensors: Mapping[str, nn.Parameter]
    aliases: Mapping[str, str]


def inner_model(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel and torch.compile."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]  # checked to be a module
        else:
            return model


def names_of(model: nn.Module) -> Names:
    """Name a model's parameters without the marks of wrappers.

    Args:
        model: The model, possibly wrapped.

    Returns:
        The parameters; a tied one under its first name.

    Raises:
        UsageError: If two parameters come to the same name.
    """
    tensors: dict[str, nn.Parameter] = {}
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for full, parameter in inner_model(model).named_parameters(remove_duplicate=False):
        name = full
        for mark in _WRAPPERS:
            name = name.replace(mark, "")
        if id(parameter) in first:
            if name != first[id(parameter)]:
                aliases[name] = first[id(parameter)]
        elif name in tensors:
            raise UsageError(
                f"two parameters of the model come to the name {name!r} once wrappers' marks are "
                f"taken off ({full!r} is the second): rename one of the modules"
            )
        else:
            tensors[name] = parameter
            first[id(parameter)] = name
    return Names(tensors, aliases)


def check_match(names: Names, optimizer: torch.optim.Optimizer) -> None:
    """Check that the optimizer moves this model.

    Args:
        names: The model's parameters.
        optimizer: The optimizer.

    Raises:
        UsageError: If it holds tensors that are not the model's.
    """
    known = {id(parameter) for parameter in names.tensors.values()}
    held = [tensor for group in optimizer.param_groups for tensor in group["params"]]
    strange = [tensor for tensor in held if id(tensor) not in known]
    if strange:
        raise UsageError(
            f"{len(strange)} of the {len(held)} tensors of the optimizer are not parameters of the "
            f"model (shapes {_shapes(strange)}): pass the model that this optimizer was made for, "
            "the whole of it; if parameters were replaced since, make the optimizer afterwards"
        )


def check_same(before: Mapping[str, Outline], now: Mapping[str, nn.Parameter]) -> None:
    """Check that a model has kept the parameters it was recorded with.

    Args:
        before: Those that have been recorded.
        now: Those that it has.

    Raises:
        UsageError: If one is gone or has another shape or dtype; new ones are fine.
    """
    for name, outline in before.items():
        if name not in now:
            raise UsageError(
                f"the model changed in mid-run: parameter {name!r} is gone, and a row holds every "
                "tensor that was recorded before; record to a new file from here"
            )
        found = outline_of(now[name])
        if found != outline:
            raise UsageError(
                f"the model changed in mid-run: parameter {name!r} is {found[1]} of shape "
                f"{found[0]}, expected {outline[1]} of shape {outline[0]} as recorded before; "
                "record to a new file from here"
            )


def outline_of(tensor: torch.Tensor) -> Outline:
    """Shape and dtype of a tensor, the whole of it if it is sharded."""
    return tuple(tensor.shape), tensor.dtype


def _shapes(tensors: Iterable[torch.Tensor]) -> str:
    shapes = [str(tuple(tensor.shape)) for tensor in tensors]
    return ", ".join(shapes[:4]) + (", ..." if len(shapes) > 4 else "")
