"""Keras's ``.weights.h5``: HDF5 with a group for each layer and its variables by number.

The library is used to find where each variable lies, never to read it: the bytes are fetched from
the file. The names of layers are in the file, those of their variables are not: a layer ``first``
holds ``first/0``, ``first/1``, in the order in which it made them (kernel, then bias).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trajfile.dtypes import dtype_name
from trajfile.errors import FormatError
from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.files import File, Files, known
from trajfile.importers.names import NOT_FLOATING, RUNNING, joined, parameters
from trajfile.importers.places import Place, Span
from trajfile.importers.refusal import leads_out, unknown_layout

if TYPE_CHECKING:
    import h5py

_VARS = "vars"
_OPTIMIZER = "optimizer/"
#: The optimizer's variables that every optimizer has, by number.
_ITERATIONS, _LEARNING_RATE = "optimizer/vars/0", "optimizer/vars/1"
_NORMALISATION = re.compile(r"(?:.*/)?batch_normalization(?:_\d+)?")
_UNNAMED = "the optimizer's state does not say which variable it is of"
#: The rules of HDF5 trajectories as they are called for checkpoints.
_RULES = {
    "CORE-002": "CKPT-010",
    "CORE-006": "CKPT-004",
    "H5-002": "CKPT-007",
    "H5-003": "CKPT-007",
    "H5-004": "CKPT-009",
    "H5-005": "CKPT-010",
    "H5-013": "CKPT-010",
    "CORE-010": "CKPT-008",
    "CORE-012": "CKPT-004",
}


def read_keras(path: Path, root: Path, files: Files) -> Checkpoint:
    """A checkpoint in one file.

    Args:
        path: The file.
        root: The folder that it must lie in.
        files: Reads it.

    Returns:
        The places of its variables; of the optimizer, its count of steps and its learning rate.

    Raises:
        FormatError: If the file is not whole, or holds what must not be followed.
    """
    # HDF5 is known to the containers alone, and this is HDF5.
    from trajfile.containers.hdf5_damage import failures_as_damage
    from trajfile.containers.hdf5_open import check_links, open_for_reading

    file = known(path, root)
    try:
        with open_for_reading(path) as opened, failures_as_damage(path):
            check_links(opened, path)
            found = dict(_variables(opened, file))
            names = {group: _layer(opened, group) for group in {_group(key) for key in found}}
    except FormatError as error:
        if not error.rule.startswith("CKPT"):
            error.rule = _RULES.get(error.rule, "CKPT-004")
        raise
    model = {key: place for key, place in found.items() if not key.startswith(_OPTIMIZER)}
    running = set(_running(model))
    named: dict[str, Place] = {}
    unique = len(set(names.values())) == len(names)
    for key, place in model.items():
        if key not in running:
            layer = names[_group(key)] if unique else _group(key)
            named[joined((f"{layer}/{key.rpartition('/')[2]}",), named, path)] = place
    params, left_out = parameters(named)
    if running:
        left_out[RUNNING] = tuple(running)
    if any(key.startswith(_OPTIMIZER) and place.shape for key, place in found.items()):
        left_out[_UNNAMED] = ("optimizer state",)
    rate = _number(found.get(_LEARNING_RATE), files)
    steps = _number(found.get(_ITERATIONS), files)
    return Checkpoint(
        path=path,
        params=params,
        files=(file,),
        kind="keras",
        step=int(steps) if steps is not None and steps >= 0 else None,
        learning_rates=() if rate is None else (rate,),
        left_out=left_out,
    )


def _variables(opened: h5py.File, file: File) -> Iterator[tuple[str, Place]]:
    """Every dataset and its place, in the natural order of the keys."""
    import h5py

    from trajfile.importers.steps import natural

    pending: list[tuple[str, Any]] = [("", opened)]
    datasets: list[tuple[str, h5py.Dataset]] = []
    while pending:
        prefix, group = pending.pop()
        for name in group:
            held = group[name]
            if isinstance(held, h5py.Group):
                pending.append((f"{prefix}{name}/", held))
            else:
                datasets.append((prefix + name, held))
    for key, dataset in sorted(datasets, key=lambda item: natural(item[0])):
        yield key, _place(key, dataset, file)


def _place(key: str, dataset: h5py.Dataset, file: File) -> Place:
    from h5py import h5d

    plist = dataset.id.get_create_plist()
    if plist.get_external_count() or plist.get_layout() == h5d.VIRTUAL:
        leads_out(file.path, f"keeps {key[:100]!r} in another file")
    dtype = _dtype(dataset)
    shape = tuple(int(n) for n in dataset.shape or ())
    offset = dataset.id.get_offset()
    if offset is None and 0 in shape:
        return Span(dtype, shape, file, 0)
    if offset is None:
        unknown_layout(
            file.path,
            f"keeps {key[:100]!r} in chunks or in its header, not in one piece",
            "save it again with save_weights",
        )
    if offset + dataset.id.get_storage_size() > file.size or (
        dataset.id.get_storage_size() < dataset.size * dataset.dtype.itemsize
    ):
        unknown_layout(file.path, f"keeps less of {key[:100]!r} than its shape", "save it again")
    return Span(dtype, shape, file, int(offset))


def _dtype(dataset: h5py.Dataset) -> str:
    """The dtype's name; bfloat16 and its like lie as plain bytes, with the name beside them."""
    stated = dataset.attrs.get("dtype") if _is_text(dataset, "dtype") else None
    name = str(stated) if stated is not None else dtype_name(dataset.dtype)
    if name is None or dataset.dtype.byteorder == ">":
        return NOT_FLOATING
    try:
        import ml_dtypes

        size = np.dtype(getattr(ml_dtypes, name, name)).itemsize
    except TypeError:
        return NOT_FLOATING
    return name if size == dataset.dtype.itemsize else NOT_FLOATING


def _is_text(held: Any, name: str) -> bool:
    return name in held.attrs and held.attrs.get_id(name).dtype.kind in "OS"


def _layer(opened: h5py.File, group: str) -> str:
    """What a layer was called, as its group of variables says; else the group's own path."""
    variables = opened[f"{group}/{_VARS}"] if group else opened[_VARS]
    name = variables.attrs.get("name") if _is_text(variables, "name") else None
    return str(name) if isinstance(name, str) and name.isprintable() and name else group


def _group(key: str) -> str:
    """The layer that a variable belongs to: ``layers/dense/vars/0`` to ``layers/dense``."""
    return key.rpartition("/")[0].removesuffix(_VARS).rstrip("/")


def _running(model: dict[str, Place]) -> Iterator[str]:
    """Running means and variances: the last two variables of a batch normalisation."""
    groups: dict[str, list[str]] = {}
    for key in model:
        groups.setdefault(_group(key), []).append(key)
    for group, keys in groups.items():
        if _NORMALISATION.fullmatch(group):
            yield from keys[-2:]


def _number(place: Place | None, files: Files) -> float | None:
    if place is None or place.shape:
        return None
    dtype = np.dtype(place.dtype) if place.dtype in {"int32", "int64", "float32"} else None
    if dtype is None:
        return None
    out = np.empty(1, dtype)
    place.read(files, 0, 1, out)
    return float(out[0])
