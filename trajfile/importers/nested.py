"""A saved object, however its author nested it: where the model is and where the optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trajfile.importers.names import joined
from trajfile.importers.pickled import Inert
from trajfile.importers.places import Pieces, Span, Strided
from trajfile.importers.refusal import too_large
from trajfile.importers.torch_storage import View, is_foreign

#: What training scripts call the model's state dict, most telling first.
MODEL_KEYS = (
    "model_state_dict",
    "state_dict",
    "model",
    "model_state",
    "module",
    "net",
    "network",
    "weights",
    "params",
)
_STEP_KEYS = ("global_step", "step", "iteration", "iter", "iter_num", "global_iter", "n_iter")
#: What counts as a tensor: one as pickled, or its place where that is known already.
Tensor = View | Span | Strided | Pieces
_MAX_DEPTH = 64
_MAX_VISITS = 5_000_000


@dataclass
class Found:
    """What a nested object holds.

    Attributes:
        tensors: The model's tensors by dotted name, in saved order.
        unread: Names of tensors that are not plain ones, and of objects that may be or hold some.
        optimizers: State dicts of optimizers, as saved.
        step: The count of updates, if it is stated.
        epoch: The count of epochs, if it is stated.
    """

    tensors: dict[str, Any] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)
    optimizers: list[Mapping[str, Any]] = field(default_factory=list)
    step: int | None = None
    epoch: int | None = None


def search(value: Any, path: Path) -> Found:
    """Find the model and the optimizers in a saved object.

    Args:
        value: The saved object, as `unpickle` returns it.
        path: The file, for messages.

    Returns:
        What was found; possibly no tensors.
    """
    found = Found()
    walk = _Walk(path, found)
    if is_optimizer(value):  # an optimizer saved by itself, beside the model's own file
        found.optimizers.append(value)
        return found
    if isinstance(value, Tensor):
        value = {"tensor": value}
    if isinstance(value, dict):
        found.step = next(
            filter(lambda n: n is not None, map(_count, map(value.get, _STEP_KEYS))), None
        )
        found.epoch = _count(value.get("epoch"))
        for item in value.values():
            walk.optimizers(item)
        model = next((value[key] for key in MODEL_KEYS if _holds(value.get(key))), None)
        if model is not None and not _is_flat(value):
            value = model
        elif not _is_flat(value):
            # Several networks side by side, such as a generator and a discriminator. Single
            # numbers beside them are counters and losses.
            value = {
                key: item
                for key, item in value.items()
                if not (isinstance(item, Tensor) and not item.shape)
            }
    walk.tensors(value, ())
    return found


def is_optimizer(value: Any) -> bool:
    """Whether a saved object is the state dict of an optimizer of PyTorch's kind."""
    return isinstance(value, dict) and {"state", "param_groups"} <= value.keys()


def contents(module: Any) -> dict[Any, Any] | None:
    """What a dict or a whole saved module holds, as a state dict names it; None if neither."""
    if isinstance(module, dict):
        return module
    if not isinstance(module, Inert):
        return None
    state = module.state if isinstance(module.state, dict) else {}
    if isinstance(state.get("_parameters"), dict) and isinstance(state.get("_modules"), dict):
        buffers = state.get("_buffers")
        return {**state["_parameters"], **(buffers if isinstance(buffers, dict) else {})} | {
            key: child for key, child in state["_modules"].items() if child is not None
        }
    return module.items or None


class _Walk:
    """Visits nested objects, each of which may be reached on many ways, within bounds."""

    def __init__(self, path: Path, found: Found):
        self.path, self.found, self.visits = path, found, 0

    def tensors(self, value: Any, parts: tuple[str, ...]) -> None:
        for key, item in self.children(value, parts):
            if is_optimizer(item):
                continue
            where = (*parts, str(key))
            if isinstance(item, Tensor):
                self.found.tensors[joined(where, self.found.tensors, self.path)] = item
            elif isinstance(item, Inert) and (_is_tensor(item) or _is_closed(item)):
                self.found.unread.append(".".join(where))
            else:
                self.tensors(item, where)

    def optimizers(self, value: Any) -> None:
        if is_optimizer(value):
            self.found.optimizers.append(value)
        elif isinstance(value, list):
            for item in value:
                if is_optimizer(item):
                    self.found.optimizers.append(item)

    def children(self, value: Any, parts: tuple[str, ...]) -> Iterator[tuple[Any, Any]]:
        self.visits += 1
        if self.visits > _MAX_VISITS or len(parts) > _MAX_DEPTH:
            too_large(self.path, "nests its objects without end")
        held = contents(value)
        if held is not None:
            yield from held.items()
        elif isinstance(value, (list, tuple)):
            yield from enumerate(value)


def _holds(value: Any) -> bool:
    held = contents(value)
    if not held or is_optimizer(value):
        return False
    return any(isinstance(item, Tensor) or _holds_more(item) for item in held.values())


def _holds_more(value: Any) -> bool:
    # One level further is enough to tell a model from its configuration.
    return any(isinstance(item, (Tensor, Inert, dict)) for item in (contents(value) or {}).values())


def _is_flat(value: dict[Any, Any]) -> bool:
    """Whether tensors with a shape lie at the top, as in a plain state dict."""
    return any(isinstance(item, Tensor) and item.shape for item in value.values())


def _is_tensor(item: Inert) -> bool:
    return str(item.maker).startswith("torch") and (
        "rebuild" in str(item.maker).lower() or str(item.maker) == "torch.Tensor"
    )


def _is_closed(item: Inert) -> bool:
    """Whether an object is of code that is not known, and shows nothing of what it holds."""
    return is_foreign(item.maker) and contents(item) is None


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 2**62 else None
