"""Checkpoints of Orbax: a tree of arrays in a store of Zarr chunks, which TensorStore reads.

Needs the package ``tensorstore``, which comes with the extra ``jax``; JAX itself is not imported.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trajfile.dtypes import ITEM_SIZES
from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.files import File, Files, known
from trajfile.importers.names import joined, parameters
from trajfile.importers.places import Bits, Place
from trajfile.importers.refusal import half_written, leads_out, too_large, unknown_layout

TABLE = "_METADATA"
_MAX_TABLE = 2**28
_MAX_CHUNK = 2**32
_MAX_FILES = 1_000_000
#: Where a training state keeps its model.
_MODEL_ROOTS = ("params", "model", "state")
#: optax's name of an optimizer's state -> the slot in PyTorch's words.
_SLOTS = {"mu": "exp_avg", "nu": "exp_avg_sq", "trace": "momentum_buffer"}
_OPTIMIZER_ROOTS = ("opt_state", "optimizer", "opt")
_PARTS = ("params", "default", "state", "model", "items", "train_state")


@dataclass(frozen=True, eq=False)
class Stored:
    """An array in a store.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
        path: The checkpoint, for messages.
        array: TensorStore's handle; nothing is read until it is indexed.
    """

    dtype: str
    shape: tuple[int, ...]
    path: Path
    array: Any

    def read(self, files: Files, start: int, stop: int, out: Bits) -> None:
        """Read the slices of the first axis that hold the elements."""
        del files  # the library opens its own
        rest = math.prod(self.shape[1:])
        first, last = start // rest, -(-stop // rest)
        view = self.array[first:last] if self.shape else self.array
        try:
            block = np.ascontiguousarray(view.read().result())
        except (ValueError, OSError) as error:
            half_written(self.path, _short(error), error)
        skip = start - first * rest
        out[: stop - start] = block.reshape(-1).view(out.dtype)[skip : skip + stop - start]


def read_orbax(path: Path, root: Path, files: Files) -> Checkpoint:
    """A checkpoint that is a folder of Orbax.

    Args:
        path: The folder of one step.
        root: The folder that all must lie in.
        files: Reads the table.

    Returns:
        The arrays of the model, and of optax's state where it mirrors the model.
    """
    item = _item(path)
    listed = _files(item, root)
    table = known(item / TABLE, root)
    try:
        stated = json.loads(files.bytes(table, 0, table.size, _MAX_TABLE))
        trees = {
            tuple(str(key["key"]) for key in entry["key_metadata"]): entry["value_metadata"]
            for entry in stated["tree_metadata"].values()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        half_written(table.path, f"it is no table of arrays ({error})", error)
    arrays = _opened(item, stated, [keys for keys, value in trees.items() if _is_array(value)])
    tree = {keys: arrays[keys] for keys in trees if keys in arrays}
    model = next((name for name in _MODEL_ROOTS if any(k[0] == name for k in tree)), None)
    named: dict[str, Place] = {}
    slots: dict[str, dict[str, Place]] = {}
    step = None
    for keys, array in tree.items():
        slot = next((n for n, key in enumerate(keys) if key in _SLOTS), None)
        if keys[0] in _OPTIMIZER_ROOTS:
            if slot is not None and slot + 1 < len(keys):
                slots.setdefault(_SLOTS[keys[slot]], {})[".".join(keys[slot + 1 :])] = array
        elif keys == ("step",):
            step = _whole(array, files)
        elif model is None or keys[0] == model:
            named[joined(keys[1:] if model else keys, named, path)] = array
    params, left_out = parameters(named)
    return Checkpoint(
        path=path,
        params=params,
        slots=_matching(slots, params),
        files=(table, *listed),
        kind="orbax",
        step=step,
        left_out=left_out,
    )


def _item(path: Path) -> Path:
    """The folder that holds the tree: the checkpoint itself, or the part of it with the model."""
    if (path / TABLE).is_file():
        return path
    parts = [path / name for name in _PARTS if (path / name / TABLE).is_file()]
    if not parts:
        half_written(path, f"it has no {TABLE}")
    if parts[0].is_symlink():
        leads_out(parts[0], "is a link")
    return parts[0]


def _files(item: Path, root: Path) -> tuple[File, ...]:
    """Every file below, none of which may be a link or a pipe: the library would follow it."""
    found: list[File] = []
    pending = [item]
    while pending:
        for entry in sorted(pending.pop().iterdir()):
            if entry.is_symlink():
                leads_out(entry, "is a link")
            if entry.is_dir():
                pending.append(entry)
            elif entry.name != TABLE:
                found.append(known(entry, root))
            if len(found) + len(pending) > _MAX_FILES:
                too_large(item, "holds more than a million files")
    return tuple(found)


def _opened(
    item: Path, stated: dict[str, Any], names: list[tuple[str, ...]]
) -> dict[tuple[str, ...], Place]:
    try:
        import tensorstore
    except ImportError:
        unknown_layout(
            item,
            "is a checkpoint of Orbax, which needs the package tensorstore",
            "pip install 'trajfile[jax]'",
        )
    context = tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}})
    zarr = "zarr3" if stated.get("use_zarr3") else "zarr"
    folder = {"driver": "file", "path": f"{item.absolute()}/"}
    opening = {}
    for keys in names:
        if stated.get("use_ocdbt", True):
            place = {"driver": "ocdbt", "base": folder, "path": ".".join(keys) + "/"}
        else:
            if any("/" in key or key == ".." for key in keys):
                leads_out(item / TABLE, f"names the array {keys}, a path to elsewhere")
            place = {"driver": "file", "path": f"{item.absolute()}/{'.'.join(keys)}/"}
        spec = {"driver": zarr, "kvstore": place, "fill_missing_data_reads": False}
        opening[keys] = tensorstore.open(spec, context=context, open=True, read=True)
    found: dict[tuple[str, ...], Place] = {}
    for keys, future in opening.items():
        try:
            array = future.result()
        except (ValueError, OSError) as error:
            half_written(item, f"the array {'.'.join(keys)[:100]!r}: {_short(error)}", error)
        dtype = str(array.dtype.name)
        chunk = tuple(int(n or 1) for n in array.chunk_layout.read_chunk.shape or ())
        if math.prod(chunk) * ITEM_SIZES.get(dtype, 8) > _MAX_CHUNK:
            too_large(item, f"keeps {'.'.join(keys)[:100]!r} in chunks of {chunk}")
        found[keys] = Stored(dtype, tuple(array.shape), item, array)
    return found


def _is_array(value: Any) -> bool:
    kind = value.get("value_type") if isinstance(value, dict) else None
    return kind in {"jax.Array", "np.ndarray", "scalar"}


def _matching(
    slots: dict[str, dict[str, Place]], params: dict[str, Place]
) -> dict[str, dict[str, Place]]:
    """Slots of parameters that there are."""
    found = {
        slot: {name: array for name, array in held.items() if name in params}
        for slot, held in slots.items()
    }
    return {slot: held for slot, held in found.items() if held}


def _whole(array: Place, files: Files) -> int | None:
    if array.shape or not array.dtype.startswith(("int", "uint")):
        return None
    out = np.empty(1, array.dtype)
    array.read(files, 0, 1, out)
    return int(out[0]) if out[0] >= 0 else None


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
