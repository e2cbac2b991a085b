"""The order in which Transformers' trainer gives a model's parameters to the optimizer.

A checkpoint in safetensors lists its tensors by the alphabet and the optimizer's file numbers them,
so neither says which is which. The model's class does: it is built from ``config.json`` without
memory for weights, and never with code that a checkpoint brings along.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

#: What a configuration counts modules by.
_PARTS = re.compile(r"layer|block|depth|expert|head")
#: Parameters without weight decay, as the trainer tells them by their names.
_NO_DECAY = tuple(
    re.compile(pattern)
    for pattern in (
        r"bias",
        r"layernorm",
        r"rmsnorm",
        r"(?:^|\.)norm(?:$|\.)",
        r"_norm(?:$|\.)",
    )
)


@lru_cache(maxsize=8)
def orders(config: bytes, held: frozenset[str]) -> tuple[tuple[str, ...], ...]:
    """Orders in which the optimizer may have been given the parameters.

    Args:
        config: The bytes of ``config.json``.
        held: The names of the parameters that the checkpoint holds.

    Returns:
        Orders, likeliest first; none if the model's class is not one of the library's, or the
        library is not installed.
    """
    try:
        stated = json.loads(config)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(stated, dict) or _is_absurd(stated, len(held)):
        return ()
    try:
        model = _built(stated)
    except Exception:  # a configuration of another version or kind: the state stays unnamed
        return ()
    if model is None:
        return ()
    import torch

    names = [name for name, _ in model.named_parameters() if name in held]
    normed = {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for name, _ in module.named_parameters(recurse=False)
    }
    plain = {n for n in names if n in normed or any(p.search(n.lower()) for p in _NO_DECAY)}
    decayed = [name for name in names if name not in plain]
    return (tuple(decayed + [name for name in names if name in plain]), tuple(names))


def _is_absurd(stated: dict[str, Any], tensors: int) -> bool:
    """Whether it counts more parts of a kind than the checkpoint has tensors, to build for ever."""
    return any(
        type(value) is int and _PARTS.search(name) and value > max(tensors, 1000)
        for name, value in stated.items()
    )


def _built(stated: dict[str, Any]) -> Any:
    """The model without weights; None if the library or the class is not there."""
    classes = stated.get("architectures")
    if not (isinstance(classes, list) and classes and isinstance(classes[0], str)):
        return None
    try:
        import torch
        import transformers
    except ImportError:
        return None
    made = getattr(transformers, classes[0], None)
    configured = getattr(made, "config_class", None)
    if not (isinstance(made, type) and issubclass(made, transformers.PreTrainedModel)):
        return None
    if configured is None:
        return None
    with torch.device("meta"):
        return made(configured.from_dict(stated))
