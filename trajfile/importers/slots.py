"""The state dict of a PyTorch optimizer: which parameter each number stands for, and its slots.

An optimizer numbers its parameters in the order in which it was given them. Newer versions save
their names beside; otherwise the order is that of the model's parameters, and it is believed only
if their number and every shape agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trajfile.dtypes import ITEM_SIZES
from trajfile.importers.nested import Tensor
from trajfile.schema import OPTIMIZER_SLOTS

_SLOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_NUMBERS = ("weight_decay", "momentum", "dampening", "eps")
_FLAGS = ("nesterov", "amsgrad", "decoupled_weight_decay", "maximize")
#: Keys of a group that only this optimizer of PyTorch's has, and its name.
_TELLING = {"SGD": {"dampening", "nesterov"}, "Adam": {"betas", "amsgrad"}}
#: Slots that have a number for each element of the parameter.
_WHOLE = {slot for slots in OPTIMIZER_SLOTS.values() for slot in slots} | {"max_exp_avg_sq"}

Shapes = Mapping[str, tuple[int, ...]]


@dataclass
class State:
    """What optimizers keep.

    Attributes:
        slots: Tensors by slot, then by parameter.
        optimizer: What is stated, in the manifest's words.
        learning_rates: The learning rate of each group.
        unnamed: Why the slots could not be named; empty if they could.
    """

    slots: dict[str, dict[str, Any]] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = ()
    unnamed: str = ""


def read_state(
    optimizers: Sequence[Mapping[str, Any]], orders: Sequence[Sequence[str]], shapes: Shapes
) -> State:
    """Read the state dicts of a checkpoint's optimizers.

    Args:
        optimizers: The state dicts as saved.
        orders: Orders in which the optimizer may have been given the parameters, likeliest first.
        shapes: The shape of each parameter.

    Returns:
        Their slots by name, and what they state.
    """
    found = State()
    groups = [group for saved in optimizers for group in _groups(saved)]
    found.learning_rates = tuple(
        float(group["lr"]) for group in groups if isinstance(group.get("lr"), (int, float))
    )
    found.optimizer = _stated(groups)
    for saved in optimizers:
        state = saved.get("state")
        if not isinstance(state, dict) or not state:
            continue
        names = names_of(saved, orders if len(optimizers) == 1 else (), shapes)
        if names is None:
            found.unnamed = (
                "the optimizer's state numbers its parameters, and the numbers fit no order of "
                "the model's tensors"
            )
            continue
        for key, slots in state.items():
            if key not in names or not isinstance(slots, dict):
                continue
            for slot, tensor in slots.items():
                if _is_slot(slot, tensor):
                    found.slots.setdefault(slot, {})[names[key]] = tensor
    return found


def names_of(
    saved: Mapping[str, Any], orders: Sequence[Sequence[str]], shapes: Shapes
) -> dict[Any, str] | None:
    """The parameter that each number of a state dict stands for; None if it cannot be told."""
    groups = _groups(saved)
    numbers = [n for group in groups for n in group.get("params", ()) if type(n) is int]
    if len(set(numbers)) < len(numbers):
        return None
    given = [name for group in groups for name in _texts(group.get("param_names"))]
    state: dict[Any, Any] = saved["state"]
    if state and all(isinstance(key, str) for key in state):  # saved by name, as by FSDP
        return {key: key for key in state if key in shapes}
    for order in [given, *orders]:
        if len(order) == len(numbers) and len(set(order)) == len(order):
            names = dict(zip(numbers, order, strict=True))
            if _fits(state, names, shapes):
                return names
    return None


def _fits(state: Mapping[Any, Any], names: Mapping[Any, str], shapes: Shapes) -> bool:
    """Whether every slot has the shape of the parameter it would belong to.

    Slots of optimizers that keep less than a number for each element may have fewer axes.

    Args:
        state: The slots of each number.
        names: The parameter that each number would stand for.
        shapes: The shape of each parameter.

    Returns:
        Whether they fit.
    """
    for key, slots in state.items():
        shape = shapes.get(names.get(key, ""))
        if shape is None:
            return False
        for slot, tensor in slots.items() if isinstance(slots, dict) else ():
            if _is_slot(slot, tensor) and tensor.shape != shape:
                factored = slot not in _WHOLE and len(tensor.shape) < len(shape)
                if not factored:
                    return False
    return True


def _is_slot(slot: Any, tensor: Any) -> bool:
    return (
        isinstance(tensor, Tensor)
        and isinstance(slot, str)
        and slot != "step"
        and _SLOT.fullmatch(slot) is not None
        and tensor.dtype in ITEM_SIZES
    )


def _groups(saved: Mapping[str, Any]) -> list[dict[str, Any]]:
    groups = saved.get("param_groups")
    return [g for g in groups if isinstance(g, dict)] if isinstance(groups, list) else []


def _stated(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """What all groups agree on, in the manifest's words."""
    if not groups:
        return {}
    stated: dict[str, Any] = {}
    for name, telling in _TELLING.items():
        if all(telling <= group.keys() for group in groups):
            stated["name"] = name
    for key in (*_NUMBERS, *_FLAGS, "betas"):
        value: Any = groups[0].get(key)
        if any(group.get(key) != value for group in groups):
            continue
        if key in _NUMBERS:
            usable = type(value) in {int, float} and 0 <= value < float("inf")
        else:
            usable = type(value) is bool if key in _FLAGS else _are_betas(value)
        if usable:
            stated[key] = list(value) if key == "betas" else value
    if stated.get("name") == "Adam" and stated.get("decoupled_weight_decay") is True:
        stated["name"] = "AdamW"
    return stated


def _are_betas(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) > 0
        and all(type(beta) is float and 0 <= beta < 1 for beta in value)
    )


def _texts(value: Any) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, (list, tuple)) else []
