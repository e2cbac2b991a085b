"""One checkpoint as an importer finds it: which tensors it holds and where, nothing read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trajfile.importers.files import File
from trajfile.importers.places import Place


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds.

    Attributes:
        path: The file or folder, for messages.
        params: The model's tensors by name.
        slots: The optimizer's tensors by slot, then by the name of the parameter.
        files: Every file that tensors are read from.
        step: The count of updates that is stated inside, if one is.
        epoch: The count of epochs that is stated inside, if one is.
        scalars: What is stated of single steps: for each name (step, value).
        optimizer: What is stated of the optimizer, in the manifest's words.
        learning_rates: The learning rate of each group of the optimizer.
        left_out: Names of tensors that are not imported, by the reason in words.
        foreign: Names of code that a pickle mentions; none of it was run.
        ran: A digest of what code built that files name and that was run, on the user's word; empty
            if none was.
        kind: What wrote it, as the container's kind.
    """

    path: Path
    params: Mapping[str, Place]
    files: tuple[File, ...]
    kind: str
    slots: Mapping[str, Mapping[str, Place]] = field(default_factory=dict)
    step: int | None = None
    epoch: int | None = None
    scalars: Mapping[str, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    optimizer: Mapping[str, Any] = field(default_factory=dict)
    learning_rates: tuple[float, ...] = ()
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    foreign: frozenset[str] = frozenset()
    ran: str = ""
