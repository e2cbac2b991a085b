"""Checkpoints of ``torch.save``: state dicts, training checkpoints, Lightning's ``.ckpt``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.files import Files, known
from trajfile.importers.names import NOT_RUN, TIED, UNREAD, parameters
from trajfile.importers.places import Place
from trajfile.importers.slots import read_state
from trajfile.importers.torch_file import Saved
from trajfile.importers.torch_storage import View
from trajfile.importers.trusted import load

#: The key by which Lightning's checkpoints are known.
_LIGHTNING = "pytorch-lightning_version"


def read_torch(path: Path, root: Path, files: Files) -> Checkpoint:
    """A checkpoint in one file of ``torch.save``.

    Args:
        path: The file.
        root: The folder that it must lie in.
        files: Reads it.

    Returns:
        Its tensors' places: the model's, and the optimizer's where they can be named.
    """
    saved, found = load(known(path, root), files)
    tensors, tied = without_tied(found.tensors)
    params, left_out = parameters({name: saved.place(view) for name, view in tensors.items()})
    if tied:
        left_out[TIED] = tied
    if found.unread:
        left_out[unread(files)] = tuple(found.unread)
    shapes = {name: place.shape for name, place in params.items()}
    state = read_state(found.optimizers, [list(params)], shapes)
    if state.unnamed:
        left_out[state.unnamed] = ("optimizer state",)
    lightning = isinstance(saved.value, dict) and _LIGHTNING in saved.value
    return Checkpoint(
        path=path,
        params=params,
        slots=placed(saved, state.slots),
        files=(saved.file,),
        kind="lightning" if lightning else "torch",
        step=found.step,
        epoch=found.epoch,
        optimizer=state.optimizer,
        learning_rates=state.learning_rates,
        left_out=left_out,
        foreign=saved.foreign,
        ran=saved.digest,
    )


def unread(files: Files) -> str:
    """Why tensors that are not plain ones are left out."""
    return NOT_RUN if files.scratch is None else UNREAD


def placed(saved: Saved, slots: Mapping[str, Mapping[str, View]]) -> dict[str, dict[str, Place]]:
    """Where the tensors of an optimizer lie."""
    return {
        slot: {name: saved.place(view) for name, view in tensors.items()}
        for slot, tensors in slots.items()
    }


def without_tied(tensors: Mapping[str, View]) -> tuple[dict[str, View], tuple[str, ...]]:
    """Leave out tensors that are the very same bytes as an earlier one, as tied weights are."""
    seen: set[View] = set()
    kept: dict[str, View] = {}
    tied = []
    for name, view in tensors.items():
        if view in seen and view.shape and 0 not in view.shape:
            tied.append(name)
        else:
            seen.add(view)
            kept[name] = view
    return kept, tuple(tied)
