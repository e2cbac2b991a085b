"""Which of the tensors in a checkpoint are parameters, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trajfile.dtypes import ITEM_SIZES
from trajfile.errors import Damaged
from trajfile.importers.places import Place

#: Reasons for leaving a tensor out, in words.
NOT_FLOATING = "not of a floating dtype"
RUNNING = "running statistics"
TIED = "tied to another tensor"
UNREAD = "of a kind that is not read"
NOT_RUN = "built by code that is run only with --trust"

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def parameters(
    places: Mapping[str, Place],
) -> tuple[dict[str, Place], dict[str, tuple[str, ...]]]:
    """Tell parameters from what else a model saves.

    A saved model does not say which of its tensors are trained. Integers and truth values are
    not, nor are the running statistics of normalisation, which are known by their names. Other
    buffers of a floating dtype are taken for parameters; `--params` leaves them out.

    Args:
        places: The model's tensors by name.

    Returns:
        The parameters in the same order, and the names of the others by reason.
    """
    found: dict[str, Place] = {}
    left: dict[str, list[str]] = {}
    for name, place in places.items():
        if place.dtype not in ITEM_SIZES or place.dtype.startswith(("int", "uint")):
            left.setdefault(NOT_FLOATING, []).append(name)
        elif _is_running(name, places):
            left.setdefault(RUNNING, []).append(name)
        else:
            found[name] = place
    return found, {reason: tuple(names) for reason, names in left.items()}


def joined(parts: tuple[str, ...], taken: Mapping[str, object], path: Path) -> str:
    """The dotted name of a nested tensor, which no other tensor may have.

    Args:
        parts: The keys that lead to it.
        taken: The names there are.
        path: The checkpoint, for messages.

    Returns:
        The name.

    Raises:
        Damaged: If the name is taken.
    """
    name = ".".join(parts)
    if name in taken:
        raise Damaged(
            f"{path} holds two tensors that are both called {name!r} once nested names are joined "
            "by dots; rename one of them",
            path=path,
            rule="CKPT-006",
        )
    return name


def _is_running(name: str, places: Mapping[str, Place]) -> bool:
    prefix, _, last = name.rpartition(".")
    if last not in _STATISTICS:
        return False
    dot = f"{prefix}." if prefix else ""
    return all(dot + sibling in places for sibling in _STATISTICS[:2])
