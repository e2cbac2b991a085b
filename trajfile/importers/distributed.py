"""Checkpoints of ``torch.distributed.checkpoint``: a table, and files that hold pieces of tensors.

The table ``.metadata`` is a pickle. It is read as data, like every pickle here, and says for each
tensor its shape, the boxes it was cut into, and in which file and where each box lies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.files import File, Files, known
from trajfile.importers.names import UNREAD, parameters
from trajfile.importers.nested import search
from trajfile.importers.pickled import Inert, Key, Name, PickleError, unpickle
from trajfile.importers.places import Pieces, Place
from trajfile.importers.refusal import half_written, leads_out, unknown_layout
from trajfile.importers.slots import read_state
from trajfile.importers.torch_file import Saved, read_saved
from trajfile.importers.torch_storage import Reader, View

TABLE = ".metadata"
_MAX_TABLE = 2**28
_MAX_PLAIN = 2**16
_PACKAGE = "torch.distributed.checkpoint.metadata"
_TENSOR = Name(_PACKAGE, "TensorStorageMetadata")
_WHOLE: tuple[int, ...] | None = None


class _Where(NamedTuple):
    file: str
    offset: int
    length: int


def read_distributed(path: Path, root: Path, files: Files) -> Checkpoint:
    """A checkpoint that is a folder of pieces.

    Args:
        path: The folder.
        root: The folder that all must lie in.
        files: Reads it.

    Returns:
        The tensors, put together, of the model and of the optimizer.
    """
    table = known(path / TABLE, root)
    data = files.bytes(table, 0, table.size, _MAX_TABLE)
    reader = Reader()
    try:
        stated, _ = unpickle(data, reader.rebuild, reader.refer)
        kinds, paths, places = _parts(stated)
    except (PickleError, KeyError, TypeError, AttributeError, ValueError) as error:
        half_written(table.path, f"it is no table of tensors ({error})", error)
    pieces = _Pieces(path, root, files, places)
    nested: dict[Any, Any] = {}
    for name, kind in kinds.items():
        value = pieces.value(name, kind)
        _put(nested, paths.get(name, (name,)), value)
    found = search(_shaped(nested), path)
    params, left_out = parameters(found.tensors)
    shapes = {name: place.shape for name, place in params.items()}
    state = read_state(found.optimizers, [list(params)], shapes)
    if state.unnamed:
        left_out[state.unnamed] = ("optimizer state",)
    if found.unread:
        left_out[UNREAD] = tuple(found.unread)
    return Checkpoint(
        path=path,
        params=params,
        slots={
            slot: {name: _placed(tensor) for name, tensor in held.items()}
            for slot, held in state.slots.items()
        },
        files=(table, *pieces.opened.values()),
        kind="torch_distributed",
        step=found.step,
        epoch=found.epoch,
        optimizer=state.optimizer,
        learning_rates=state.learning_rates,
        left_out=left_out,
        foreign=frozenset(reader.foreign | pieces.foreign),
    )


class _Pieces:
    """Finds what the table speaks of in the files beside it."""

    def __init__(
        self,
        folder: Path,
        root: Path,
        files: Files,
        places: Mapping[tuple[str, tuple[int, ...] | None], _Where],
    ):
        self._folder, self._root, self._files, self._places = folder, root, files, places
        self.opened: dict[str, File] = {}
        self.foreign: set[str] = set()

    def value(self, name: str, kind: Inert) -> Any:
        """A tensor as a place, or a small plain value; None for what is neither."""
        if kind.maker != _TENSOR:
            return self._plain(name)
        size, chunks = tuple(kind.state["size"]), kind.state["chunks"]
        boxes: list[tuple[tuple[int, ...], Place]] = []
        for chunk in chunks:
            corner, sizes = tuple(chunk.state["offsets"]), tuple(chunk.state["sizes"])
            place = self._tensor(name, corner)
            fits = len(corner) == len(sizes) == len(size) and all(
                0 <= c <= c + n <= whole for c, n, whole in zip(corner, sizes, size, strict=True)
            )
            if place.shape != sizes or not fits or (boxes and place.dtype != boxes[0][1].dtype):
                half_written(
                    self._folder / TABLE,
                    f"it says that {name[:100]!r} of shape {size} has a piece of shape {sizes} at "
                    f"{corner}, found {place.shape} {place.dtype}",
                )
            if 0 not in sizes or not size:
                boxes.append((corner, place))
        if not boxes and 0 in size:
            return self._tensor(name, tuple(chunks[0].state["offsets"])) if chunks else None
        if not _tiles(size, boxes):
            half_written(self._folder / TABLE, f"the pieces of {name[:100]!r} do not make it whole")
        if len(boxes) == 1:
            return boxes[0][1]
        return Pieces(boxes[0][1].dtype, size, tuple(boxes))

    def _tensor(self, name: str, corner: tuple[int, ...]) -> Place:
        where = self._places.get((name, corner), self._places.get((name, None)))
        if where is None:
            half_written(self._folder / TABLE, f"it does not say where {name[:100]!r} lies")
        saved = self._saved(where)
        if not isinstance(saved.value, View):
            half_written(saved.file.path, f"{name[:100]!r} is no tensor there")
        return saved.place(saved.value)

    def _plain(self, name: str) -> Any:
        where = self._places.get((name, _WHOLE))
        if where is None or where.length > _MAX_PLAIN:
            return None
        saved = self._saved(where)
        return None if isinstance(saved.value, (View, Inert)) else saved.value

    def _saved(self, where: _Where) -> Saved:
        file = self.opened.get(where.file)
        if file is None:
            file = self.opened[where.file] = self._file(where.file)
        if min(where.offset, where.length) < 0 or where.offset + where.length > file.size:
            half_written(
                file.path, f"expected {where.offset + where.length} bytes, found {file.size}"
            )
        saved = read_saved(file, self._files, where.offset, where.length)
        self.foreign |= saved.foreign
        return saved

    def _file(self, name: str) -> File:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            leads_out(self._folder / TABLE, f"names the file {name[:100]!r}, a path to elsewhere")
        try:
            return known(self._folder / name, self._root)
        except FileNotFoundError:
            half_written(self._folder / TABLE, f"the file {name[:100]} is missing")


def _parts(
    stated: Any,
) -> tuple[
    dict[str, Inert],
    dict[str, tuple[Any, ...]],
    dict[tuple[str, tuple[int, ...] | None], _Where],
]:
    """What the table says of kinds, of nesting, and of places."""
    state = stated.state
    kinds = dict(state["state_dict_metadata"])
    planned = state.get("planner_data")
    paths = {
        name: tuple(path)
        for name, path in (planned.items() if isinstance(planned, dict) else ())
        if isinstance(path, (tuple, list)) and path
    }
    places: dict[tuple[str, tuple[int, ...] | None], _Where] = {}
    for key, info in state["storage_data"].items():
        index = (key.held if isinstance(key, Key) else key).state
        where = info.state
        if where.get("transform_descriptors"):
            unknown_layout(
                Path(str(where["relative_path"])),
                "is transformed by an extension",
                "save the checkpoint without it",
            )
        corner = index.get("offset")
        places[index["fqn"], None if corner is None else tuple(corner)] = _Where(
            str(where["relative_path"]), int(where["offset"]), int(where["length"])
        )
    return kinds, paths, places


def _tiles(size: tuple[int, ...], boxes: list[tuple[tuple[int, ...], Place]]) -> bool:
    """Whether boxes within a tensor have as many elements as it, and none begins where another."""
    held = sum(math.prod(place.shape) for _, place in boxes)
    return held == math.prod(size) and len({corner for corner, _ in boxes}) == len(boxes)


def _put(nested: dict[Any, Any], path: tuple[Any, ...], value: Any) -> None:
    for part in path[:-1]:
        inner = nested.setdefault(part, {})
        if not isinstance(inner, dict):
            return
        nested = inner
    nested[path[-1]] = value


def _shaped(value: Any, key: Any = None) -> Any:
    """Lists where keys are counted, and numbers where an optimizer counts its parameters."""
    if not isinstance(value, dict):
        return value
    if value and all(type(part) is int for part in value):
        return [_shaped(value[part]) for part in sorted(value)]
    held = {part: _shaped(item, part) for part, item in value.items()}
    if key == "state" and all(isinstance(part, str) and part.isdecimal() for part in held):
        return {int(part): item for part, item in held.items()}
    return held


def _placed(tensor: Any) -> Place:
    placed: Place = tensor
    return placed
