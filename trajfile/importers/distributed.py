"""Checkpoints of ``torch.distributed.checkpoint``: a table, and files that hold pieces of tensors.

The table ``.metadata`` (`trajfile.importers.distributed_table`) says for each tensor its shape, the
boxes it was cut into, and in which file and where each box lies.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from trajfile.errors import FormatError
from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.distributed_table import Cut, Table, Where, read_table
from trajfile.importers.files import File, Files, known
from trajfile.importers.names import parameters
from trajfile.importers.nested import Found, search
from trajfile.importers.pickled import Inert, PickleError
from trajfile.importers.places import Pieces, Place
from trajfile.importers.refusal import TRUST, half_written, leads_out
from trajfile.importers.slots import read_state
from trajfile.importers.torch_checkpoint import unread
from trajfile.importers.torch_file import Saved, leaves, read_saved
from trajfile.importers.torch_storage import View
from trajfile.importers.trusted import run, say

TABLE = ".metadata"
_MAX_PLAIN = 2**16
_MAX_DEPTH = 64


def read_distributed(path: Path, root: Path, files: Files) -> Checkpoint:
    """A checkpoint that is a folder of pieces.

    Args:
        path: The folder.
        root: The folder that all must lie in.
        files: Reads it, and knows whether it is trusted.

    Returns:
        The tensors, put together, of the model and of the optimizer.
    """
    file = known(path / TABLE, root)
    table = read_table(file, files)
    pieces = _Pieces(path, root, files, table)
    found = pieces.search()
    whole = not found.unread and (found.tensors or found.optimizers)
    if not whole and files.scratch is not None and pieces.closed:
        pieces = _Pieces(path, root, files, table, trusted=True)
        found = pieces.search()
    params, left_out = parameters(found.tensors)
    shapes = {name: place.shape for name, place in params.items()}
    state = read_state(found.optimizers, [list(params)], shapes)
    if state.unnamed:
        left_out[state.unnamed] = ("optimizer state",)
    if found.unread:
        left_out[unread(files)] = tuple(found.unread)
    return Checkpoint(
        path=path,
        params=params,
        slots={
            slot: {name: _placed(tensor) for name, tensor in held.items()}
            for slot, held in state.slots.items()
        },
        files=(file, *pieces.opened.values()),
        kind="torch_distributed",
        step=found.step,
        epoch=found.epoch,
        optimizer=state.optimizer,
        learning_rates=state.learning_rates,
        left_out=left_out,
        foreign=table.foreign | pieces.foreign,
        ran=table.digest + pieces.ran,
    )


class _Pieces:
    """Finds what the table speaks of in the files beside it.

    Attributes:
        opened: The files, by the name that the table has for them.
        foreign: Names of code that pieces mention and that was not run.
        closed: Whether a piece is an object, or holds one, that only code could build.
        ran: Digests of what code built.
    """

    def __init__(
        self, folder: Path, root: Path, files: Files, table: Table, *, trusted: bool = False
    ):
        self._folder, self._root, self._files, self._table = folder, root, files, table
        self._trusted = trusted
        self._said: set[File] = set()
        self.opened: dict[str, File] = {}
        self.foreign: set[str] = set()
        self.closed = False
        self.ran = ""

    def search(self) -> Found:
        """The model and the optimizers in what was saved."""
        nested: dict[Any, Any] = {}
        for name, cut in self._table.entries.items():
            value = self._plain(name) if cut is None else self._whole(name, cut)
            _put(nested, self._table.paths.get(name, (name,)), value)
        return search(_shaped(nested), self._folder)

    def _whole(self, name: str, cut: Cut) -> Place | Inert | None:
        """A tensor as a place; as a note if a piece of it is an object that was not built."""
        size = cut.size
        boxes: list[tuple[tuple[int, ...], Place]] = []
        for corner, sizes in cut.boxes:
            place = self._tensor(name, corner)
            if isinstance(place, Inert):
                return place
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
            return self._tensor(name, cut.boxes[0].corner) if cut.boxes else None
        if not _tiles(size, boxes):
            half_written(self._folder / TABLE, f"the pieces of {name[:100]!r} do not make it whole")
        if len(boxes) == 1:
            return boxes[0][1]
        return Pieces(boxes[0][1].dtype, size, tuple(boxes))

    def _tensor(self, name: str, corner: tuple[int, ...]) -> Place | Inert:
        places = self._table.places
        where = places.get((name, corner), places.get((name, None)))
        if where is None:
            half_written(self._folder / TABLE, f"it does not say where {name[:100]!r} lies")
        saved = self._saved(where)
        if isinstance(saved.value, Inert):
            return saved.value
        if not isinstance(saved.value, View):
            half_written(saved.file.path, f"{name[:100]!r} is no tensor there")
        return saved.place(saved.value)

    def _plain(self, name: str) -> Any:
        """What is no tensor, or objects that may hold some; None of what is too large for that."""
        where = self._table.places.get((name, None))
        if where is None or (where.length > _MAX_PLAIN and not self._trusted):
            return None
        saved = self._saved(where)
        return _with_places(saved.value, saved, {})

    def _saved(self, where: Where) -> Saved:
        file = self.opened.get(where.file)
        if file is None:
            file = self.opened[where.file] = self._file(where.file)
        if min(where.offset, where.length) < 0 or where.offset + where.length > file.size:
            half_written(
                file.path, f"expected {where.offset + where.length} bytes, found {file.size}"
            )
        try:
            saved = read_saved(file, self._files, where.offset, where.length)
        except FormatError as error:
            if not (error.rule == "CKPT-010" or isinstance(error.__cause__, PickleError)):
                raise
            if self._files.scratch is None:
                raise type(error)(f"{error}; {TRUST}", path=file.path, rule=error.rule) from error
            return self._run(file, where)
        if any(isinstance(item, Inert) for item in leaves(saved.value)):
            self.closed = True
            if self._trusted:
                return self._run(file, where)
        self.foreign |= saved.foreign
        return saved

    def _run(self, file: File, where: Where) -> Saved:
        if file not in self._said:
            self._said.add(file)
            say(file)
        saved = run(file, self._files, where.offset, where.length)
        self.ran += saved.digest
        return saved

    def _file(self, name: str) -> File:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            leads_out(self._folder / TABLE, f"names the file {name[:100]!r}, a path to elsewhere")
        try:
            return known(self._folder / name, self._root)
        except FileNotFoundError:
            half_written(self._folder / TABLE, f"the file {name[:100]} is missing")


def _tiles(size: tuple[int, ...], boxes: list[tuple[tuple[int, ...], Place]]) -> bool:
    """Whether boxes within a tensor have as many elements as it, and none begins where another."""
    held = sum(math.prod(place.shape) for _, place in boxes)
    return held == math.prod(size) and len({corner for corner, _ in boxes}) == len(boxes)


def _with_places(value: Any, saved: Saved, done: dict[int, Any], depth: int = 0) -> Any:
    """An object with the places of its tensors in their stead; None of what nests too deep."""
    if isinstance(value, View):
        return saved.place(value)
    if type(value) not in {dict, list, tuple, Inert}:
        return value
    if depth > _MAX_DEPTH:
        return None
    if id(value) not in done:
        done[id(value)] = None  # of what holds itself

        def within(item: Any) -> Any:
            return _with_places(item, saved, done, depth + 1)

        if isinstance(value, dict):
            done[id(value)] = {key: within(item) for key, item in value.items()}
        elif isinstance(value, Inert):
            items, state = within(value.items), within(value.state)
            done[id(value)] = replace(value, items=items, state=state)
        else:
            done[id(value)] = type(value)(within(item) for item in value)
    return done[id(value)]


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
