"""The table of a checkpoint of ``torch.distributed.checkpoint``: what there is, and where it lies.

``.metadata`` is a pickle, and is read as data like every pickle here: nothing that it names is
imported or called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from trajfile.errors import Damaged
from trajfile.importers.files import File, Files
from trajfile.importers.pickled import Key, Name, PickleError
from trajfile.importers.refusal import TRUST, half_written, unknown_layout
from trajfile.importers.torch_storage import Reader
from trajfile.importers.trusted import run_pickle
from trajfile.importers.unpickle import unpickle

_MAX_TABLE = 2**28
_TENSOR = Name("torch.distributed.checkpoint.metadata", "TensorStorageMetadata")
_FAILURES = (PickleError, KeyError, TypeError, AttributeError, ValueError)

Corner = tuple[int, ...]


class Box(NamedTuple):
    """A piece of a tensor.

    Attributes:
        corner: Where in the tensor it begins.
        sizes: Its shape.
    """

    corner: Corner
    sizes: tuple[int, ...]


class Cut(NamedTuple):
    """A tensor.

    Attributes:
        size: Its shape.
        boxes: The pieces that it is cut into.
    """

    size: tuple[int, ...]
    boxes: tuple[Box, ...]


class Where(NamedTuple):
    """Where a piece lies.

    Attributes:
        file: The name of the file, as the table has it.
        offset: The first byte.
        length: How many bytes.
    """

    file: str
    offset: int
    length: int


@dataclass(frozen=True)
class Table:
    """What a table says.

    Attributes:
        entries: The tensors by name; None for what is none.
        paths: The keys that lead to an entry in what was saved, by its name.
        places: Where a piece lies, by the name of its entry and its corner, which is None for what
            is no tensor.
        foreign: Names of code beyond plain PyTorch that it mentions; none of it was run.
        digest: Of the table, if code was run to read it; else empty.
    """

    entries: Mapping[str, Cut | None]
    paths: Mapping[str, tuple[Any, ...]]
    places: Mapping[tuple[str, Corner | None], Where]
    foreign: frozenset[str]
    digest: str = ""


def read_table(file: File, files: Files) -> Table:
    """Read a table as data or, where that fails and the user trusts the file, run it.

    Args:
        file: The table.
        files: Reads it, and knows whether it is trusted.

    Returns:
        What it says.

    Raises:
        Damaged: If it is none.
    """
    data = files.bytes(file, 0, file.size, _MAX_TABLE)
    reader = Reader()
    try:
        stated, _ = unpickle(data, reader.rebuild, reader.refer)
        return _parsed(stated, frozenset(reader.foreign))
    except _FAILURES as error:
        if files.scratch is None:
            _none(file, error, f"; {TRUST}")
    built, digest = run_pickle(file, data)
    try:
        return _parsed(built, frozenset(), digest)
    except _FAILURES as error:
        _none(file, error)


def _parsed(stated: Any, foreign: frozenset[str], digest: str = "") -> Table:
    """A table from its object, or from the note of an object that was not built."""
    state = _state(stated)
    planned = state.get("planner_data")
    paths = {
        name: tuple(path)
        for name, path in (planned.items() if isinstance(planned, dict) else ())
        if isinstance(path, (tuple, list)) and path
    }
    places: dict[tuple[str, Corner | None], Where] = {}
    for key, info in state["storage_data"].items():
        index, where = _state(key.held if isinstance(key, Key) else key), _state(info)
        if where.get("transform_descriptors"):
            unknown_layout(
                Path(str(where["relative_path"])),
                "is transformed by an extension",
                "save the checkpoint without it",
            )
        corner = index.get("offset")
        places[index["fqn"], None if corner is None else tuple(corner)] = Where(
            str(where["relative_path"]), int(where["offset"]), int(where["length"])
        )
    entries = {name: _entry(kind) for name, kind in dict(state["state_dict_metadata"]).items()}
    return Table(entries, paths, places, foreign, digest)


def _entry(kind: Any) -> Cut | None:
    if _class_of(kind) != _TENSOR:
        return None
    state = _state(kind)
    chunks = [_state(chunk) for chunk in state["chunks"]]
    boxes = tuple(Box(tuple(c["offsets"]), tuple(c["sizes"])) for c in chunks)
    return Cut(tuple(state["size"]), boxes)


def _class_of(value: Any) -> Any:
    return getattr(value, "maker", None) or Name(type(value).__module__, type(value).__name__)


def _state(value: Any) -> dict[str, Any]:
    """The attributes of an object, whether it is one or the note of one."""
    state: dict[str, Any] = value.state if hasattr(value, "maker") else vars(value)
    return state


def _none(file: File, error: Exception, remedy: str = "") -> NoReturn:
    try:
        half_written(file.path, f"it is no table of tensors ({error})", error)
    except Damaged as refused:
        raise Damaged(f"{refused}{remedy}", path=file.path, rule=refused.rule) from error
