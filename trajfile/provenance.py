"""What a recorder states about a run besides arrays: optimizer, groups, gradients, metadata.

Metrics rest on these statements, so a wrong type or an unknown word is refused where it is stated
and reported where a file holds it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from trajfile.errors import UsageError

#: What had been done to the gradients when they were recorded.
GRADIENT_STAGES = ("raw", "scaled", "clipped")
#: What the loss was averaged over when the gradients were taken.
GRADIENT_SOURCES = ("mini_batch", "full_batch")

_NUMBERS = ("weight_decay", "momentum", "dampening", "learning_rate", "lr", "eps")
_FLAGS = ("decoupled_weight_decay", "nesterov")
_COUNTS = ("batch_size", "dataset_size")
_MAX_DEPTH = 64


def optimizer_problems(optimizer: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a statement about the optimizer, one sentence each.

    Args:
        optimizer: As in the manifest. Unknown keys are free.

    Yields:
        A sentence for each broken rule.
    """
    name = optimizer.get("name")
    if name is not None and not isinstance(name, str):
        yield f"optimizer['name'] is {name!r}, expected a text such as 'SGD'"
    for key in _NUMBERS:
        value = optimizer.get(key)
        if value is not None and not _is_number(value, minimum=0):
            yield f"optimizer[{key!r}] is {value!r}, expected a number of at least 0"
    for key in _FLAGS:
        value = optimizer.get(key)
        if value is not None and not isinstance(value, bool):
            yield f"optimizer[{key!r}] is {value!r}, expected true or false"
    betas = optimizer.get("betas")
    if betas is not None and not (
        isinstance(betas, (list, tuple))
        and len(betas) >= 1
        and all(_is_number(beta, minimum=0) and beta < 1 for beta in betas)
    ):
        yield f"optimizer['betas'] is {betas!r}, expected numbers in [0, 1)"


def gradient_problems(gradient: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a statement about recorded gradients, one sentence each.

    Args:
        gradient: As in the manifest. Unknown keys are free.

    Yields:
        A sentence for each broken rule.
    """
    for key, words in (("stage", GRADIENT_STAGES), ("source", GRADIENT_SOURCES)):
        value = gradient.get(key)
        if value is not None and value not in words:
            yield f"gradient[{key!r}] is {value!r}, expected one of {', '.join(words)}"
    for key in _COUNTS:
        value = gradient.get(key)
        if value is not None and not (_is_number(value, minimum=1) and value == int(value)):
            yield f"gradient[{key!r}] is {value!r}, expected a whole number of at least 1"


def check_groups(groups: Mapping[str, Any] | None) -> dict[str, tuple[str, ...]]:
    """Named lists of tensors, as the manifest holds them.

    Args:
        groups: Names to sequences of tensor names.

    Returns:
        The same with tuples; empty for None.

    Raises:
        UsageError: If a group is not a sequence of distinct texts.
    """
    checked = {}
    for group, members in _mapping(groups, "groups").items():
        if isinstance(members, str) or not all(isinstance(name, str) for name in members):
            raise UsageError(f"groups[{group!r}] must be a list of tensor names, found {members!r}")
        names = tuple(members)
        if len(set(names)) < len(names):
            raise UsageError(f"groups[{group!r}] names a tensor twice: {list(names)}")
        checked[group] = names
    return checked


def check_statement(value: Mapping[str, Any] | None, where: str) -> dict[str, Any]:
    """A JSON object from what the caller gave, NumPy scalars unwrapped.

    Args:
        value: ``optimizer``, ``gradient`` or ``metadata``; None counts as empty.
        where: The argument's name, for messages.

    Returns:
        Plain JSON types.

    Raises:
        UsageError: If something in it has no JSON form, or a rule of the statement is broken.
    """
    plain: dict[str, Any] = _json(_mapping(value, where), where, 0)
    rules = {"optimizer": optimizer_problems, "gradient": gradient_problems}
    for problem in rules[where](plain) if where in rules else ():
        raise UsageError(problem)
    return plain


def extend_statement(
    recorded: Mapping[str, Any], stated: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """What a file says once more is stated, which must hold for the rows already there too.

    Args:
        recorded: What the file says.
        stated: What is stated now, as `check_statement` or `check_groups` return it.
        where: ``optimizer``, ``groups`` or ``gradient``, for messages.

    Returns:
        Both together. A key that the file leaves open (None) counts as not recorded.

    Raises:
        UsageError: If the two differ in a key.
    """
    for key, value in stated.items():
        before = recorded.get(key)
        if before is not None and before != value:
            raise UsageError(
                f"{where}[{key!r}] is recorded as {_shown(before)}, and {_shown(value)} would "
                "contradict it for the rows already there: omit it, or start a new file"
            )
    return {**recorded, **stated}


def _shown(value: object) -> str:
    return repr(list(value) if isinstance(value, tuple) else value)


def _mapping(value: Mapping[str, Any] | None, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} must be a mapping, found a {type(value).__name__}")
    return value


def _json(value: Any, where: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise UsageError(f"{where[:80]} is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise UsageError(f"{where} has the key {key!r}; JSON keys are text")
        return {_text(k, where): _json(v, f"{where}[{k!r}]", depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    if isinstance(value, str):
        return _text(value, where)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and -(2**63) <= value < 2**64:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise UsageError(
        f"{where} is {value!r} ({type(value).__name__}), which JSON cannot hold exactly; "
        "pass text, finite numbers, true/false, None, lists or mappings of these"
    )


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{where} holds text that is not valid Unicode: {value!r}") from None
    return value


def _is_number(value: object, minimum: float) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= minimum
    )
