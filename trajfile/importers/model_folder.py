"""A folder that is one checkpoint: Transformers' ``checkpoint-500/``, Accelerate's, and their like.

Beside the model lie the optimizer's state and, from Transformers, ``trainer_state.json``. What
Transformers logs at step k is of update k - 1: the loss and the gradient's norm before it, and the
learning rate that it used; evaluations at step k are of the parameters after it. So the former
go to step k - 1, the latter to step k.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.files import File, Files, known
from trajfile.importers.names import TIED, parameters
from trajfile.importers.nested import is_optimizer
from trajfile.importers.places import Place
from trajfile.importers.refusal import half_written
from trajfile.importers.safetensors import (
    read_safetensors,
    read_sharded,
    shard_of,
    weight_map,
)
from trajfile.importers.slots import State, read_state
from trajfile.importers.torch_checkpoint import placed, read_torch, unread, without_tied
from trajfile.importers.torch_file import Saved
from trajfile.importers.trusted import load

CONFIG = "config.json"
_STATE = "trainer_state.json"
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin")
_MAX_STATE = 2**28
#: What is logged once, at the end, of the whole training.
_SUMMARY = {"train_runtime", "total_flos"}
_NOT_SCALARS = {"step", "epoch"}


@dataclass
class _Model:
    """The model's part of a folder."""

    params: Mapping[str, Place]
    files: tuple[File, ...]
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    orders: list[list[str]] = field(default_factory=list)
    foreign: frozenset[str] = frozenset()
    inside: Checkpoint | None = None
    ran: str = ""


def read_model_folder(path: Path, root: Path, files: Files) -> Checkpoint:
    """A checkpoint that is a folder of a model and what accompanies it.

    Args:
        path: The folder.
        root: The folder that all must lie in.
        files: Reads it.

    Returns:
        The tensors of the model, and of the optimizer where they can be named.
    """
    from trajfile.importers.kinds import model_file

    model = _read_model(model_file(path), root, files)
    stated = _trainer_state(path / _STATE, root, files)
    state, slots, beside = _optimizer(path, root, files, model)
    left_out = dict(model.left_out)
    if state.unnamed:
        left_out[state.unnamed] = ("optimizer state",)
    inside = model.inside
    trained = stated is not None or (path / CONFIG).is_file()
    step = stated.get("global_step") if stated is not None else None
    return Checkpoint(
        path=path,
        params=model.params,
        slots=slots or (inside.slots if inside is not None else {}),
        files=(*model.files, *(saved.file for saved in beside)),
        kind="transformers" if trained else (inside.kind if inside is not None else "safetensors"),
        step=step if type(step) is int and step >= 0 else (inside.step if inside else None),
        epoch=inside.epoch if inside else None,
        scalars=_logged(stated or {}),
        optimizer=state.optimizer or (inside.optimizer if inside else {}),
        learning_rates=state.learning_rates or (inside.learning_rates if inside else ()),
        left_out=left_out,
        foreign=model.foreign.union(*(saved.foreign for saved in beside)),
        ran=model.ran + "".join(saved.digest for saved in beside),
    )


def _read_model(path: Path, root: Path, files: Files) -> _Model:
    name = path.name
    if name.endswith(".safetensors.index.json"):
        places = read_sharded(path, root, files)
        params, left_out = parameters(places)
        return _Model(params, _files_of(params), left_out)
    if name.endswith(".bin.index.json"):
        return _read_bins(path, root, files)
    if name.endswith(".safetensors"):
        inside = read_safetensors(path, root, files)
        return _Model(inside.params, inside.files, dict(inside.left_out), inside=inside)
    inside = read_torch(path, root, files)
    return _Model(
        inside.params,
        inside.files,
        dict(inside.left_out),
        [list(inside.params)],
        inside.foreign,
        inside,
        inside.ran,
    )


def _read_bins(index: Path, root: Path, files: Files) -> _Model:
    """Shards of ``torch.save``, each a flat state dict."""
    places: dict[str, Place] = {}
    wanted = weight_map(index, root, files)
    tied: list[str] = []
    not_read: list[str] = []
    shards: list[Saved] = []
    for shard in dict.fromkeys(wanted.values()):
        saved, found = load(shard_of(index, shard, root), files)
        kept, same = without_tied(found.tensors)
        tied += same
        not_read += found.unread
        shards.append(saved)
        places |= {name: saved.place(view) for name, view in kept.items()}
    missing = [name for name in wanted if name not in {*places, *tied, *not_read}]
    if missing:
        half_written(
            index, f"it says that {wanted[missing[0]]} holds {missing[0]!r}, which it does not"
        )
    params, left_out = parameters(places)
    if tied:
        left_out[TIED] = tuple(tied)
    if not_read:
        left_out[unread(files)] = tuple(not_read)
    return _Model(
        params,
        tuple(saved.file for saved in shards),
        left_out,
        [list(params)],
        frozenset().union(*(saved.foreign for saved in shards)),
        ran="".join(saved.digest for saved in shards),
    )


def _optimizer(
    path: Path, root: Path, files: Files, model: _Model
) -> tuple[State, dict[str, dict[str, Place]], tuple[Saved, ...]]:
    found = next((path / name for name in _OPTIMIZERS if (path / name).exists()), None)
    if found is None:
        return State(), {}, ()
    saved, _ = load(known(found, root), files)
    if not is_optimizer(saved.value):
        return State(unnamed="the optimizer's file is of another form"), {}, (saved,)
    shapes = {name: place.shape for name, place in model.params.items()}
    state = read_state([saved.value], model.orders, shapes)
    if state.unnamed and (path / CONFIG).is_file():
        from trajfile.importers.transformers_order import orders

        config = known(path / CONFIG, root)
        ordered = orders(files.bytes(config, 0, config.size), frozenset(shapes))
        state = read_state([saved.value], ordered, shapes)
    return state, placed(saved, state.slots), (saved,)


def _trainer_state(path: Path, root: Path, files: Files) -> dict[str, Any] | None:
    try:
        file = known(path, root)
    except FileNotFoundError:
        return None
    try:
        state = json.loads(files.bytes(file, 0, file.size, _MAX_STATE))
    except (ValueError, RecursionError) as error:
        half_written(path, f"it is not valid JSON ({error})", error)
    return state if isinstance(state, dict) else None


def _logged(state: Mapping[str, Any]) -> dict[str, tuple[tuple[int, float], ...]]:
    """The scalars of a log, each at the step it is of."""
    series: dict[str, dict[int, float]] = {}
    history = state.get("log_history")
    for entry in history if isinstance(history, list) else []:
        if isinstance(entry, dict) and not entry.keys() >= _SUMMARY:
            for name, step, value in _values(entry):
                series.setdefault(name, {})[step] = value
    return {name: tuple(sorted(pairs.items())) for name, pairs in series.items()}


def _values(entry: Mapping[str, Any]) -> Iterator[tuple[str, int, float]]:
    step = entry.get("step")
    if type(step) is not int or not 0 <= step < 2**62:
        return
    for name, value in entry.items():
        if name in _NOT_SCALARS or type(value) not in {int, float}:
            continue
        after = name.startswith(("eval_", "test_"))
        if (after or step > 0) and (abs(value) < 2**1000 or not math.isfinite(value)):
            yield name, step if after else step - 1, float(value)


def _files_of(params: Mapping[str, Place]) -> tuple[File, ...]:
    return tuple(dict.fromkeys(file for place in params.values() for file in _within(place)))


def _within(place: Place) -> tuple[File, ...]:
    file = getattr(place, "file", None)
    return (file,) if isinstance(file, File) else ()
