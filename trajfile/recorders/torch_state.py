"""What a PyTorch optimizer keeps and how it is set, in the file's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trajfile.recorders.torch_gather import Gather
from trajfile.schema import OPTIMIZER_PREFIX

_STATED = ("momentum", "dampening", "nesterov", "betas", "eps", "alpha", "rho", "amsgrad",
           "maximize", "weight_decay", "decoupled_weight_decay", "initial_accumulator_value",
           "centered", "lr_decay", "momentum_decay")  # fmt: skip
_DECOUPLED = {"AdamW"}


def inner_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside the wrappers of Accelerate, Lightning and the like."""
    seen = 0
    while seen < 8:
        for attribute in ("optimizer", "_optimizer"):
            inside = getattr(optimizer, attribute, None)
            if isinstance(inside, torch.optim.Optimizer):
                optimizer, seen = inside, seen + 1
                break
        else:
            break
    checked: torch.optim.Optimizer = optimizer
    return checked


def main_group(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The parameter group that holds the most coordinates."""
    group: dict[str, Any] = max(
        optimizer.param_groups, key=lambda each: sum(p.numel() for p in each["params"])
    )
    return group


def statement_of(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Any]:
    """What a file states of the optimizer.

    Args:
        optimizer: The optimizer.
        names: Names of its parameters by their `id`.

    Returns:
        Its class and its settings: those of the group with the most coordinates, and where
        groups differ, those of each with the tensors in it.
    """
    kind = type(optimizer).__name__
    stated = {"name": kind} | _settings(main_group(optimizer), kind)
    groups = [_settings(group, kind) for group in optimizer.param_groups]
    if any(group != groups[0] for group in groups):
        stated["param_groups"] = [
            settings | {"tensors": [names[id(p)] for p in group["params"] if id(p) in names]}
            for settings, group in zip(groups, optimizer.param_groups, strict=True)
        ]
    return stated


def _settings(group: Mapping[str, Any], kind: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for key in _STATED:
        value = group.get(key)
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if key == "betas" and value is not None:
            value = [float(each) for each in value]
        if isinstance(value, bool | int | float | list):
            told[key] = value
    if kind in _DECOUPLED:
        told["decoupled_weight_decay"] = True
    return told


def rates_of(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rates in force.

    Args:
        optimizer: The optimizer.

    Returns:
        ``learning_rate`` of the group with the most coordinates, and where the groups' differ,
        ``learning_rate.0`` and on.
    """
    rates = [float(group["lr"]) for group in optimizer.param_groups if "lr" in group]
    if len(rates) < len(optimizer.param_groups):
        return {}
    told = {"learning_rate": float(main_group(optimizer)["lr"])}
    if any(rate != rates[0] for rate in rates):
        told |= {f"learning_rate.{index}": rate for index, rate in enumerate(rates)}
    return told


def slots_of(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, nn.Parameter], gather: Gather
) -> dict[str, dict[str, torch.Tensor]]:
    """What the optimizer keeps for the parameters.

    Args:
        optimizer: The optimizer.
        tensors: The parameters to look for.
        gather: Brings shards together.

    Returns:
        By slot and tensor name; single numbers, such as counts of steps, are left out.
    """
    slots: dict[str, dict[str, torch.Tensor]] = {}
    for name, parameter in tensors.items():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor) and value.ndim and isinstance(slot, str):
                whole = gather.whole(value)
                if whole is not None:
                    slots.setdefault(slot, {})[name] = whole
    return slots


def slots_like(
    slots: Mapping[str, Mapping[str, torch.Tensor]], params: Mapping[str, torch.Tensor]
) -> dict[str, dict[str, torch.Tensor]]:
    """What the slots will hold once every parameter has its state.

    Args:
        slots: What they hold now.
        params: The parameters as recorded.

    Returns:
        By stream; parameters without state are taken to get state of their own shape where all
        others have it so.
    """
    like: dict[str, dict[str, torch.Tensor]] = {}
    for slot, held in slots.items():
        alike = all(
            value.shape == params[name].shape and value.dtype == params[name].dtype
            for name, value in held.items()
        )
        rest = {name: value for name, value in params.items() if name not in held} if alike else {}
        like[OPTIMIZER_PREFIX + slot] = {**held, **rest}
    return like
