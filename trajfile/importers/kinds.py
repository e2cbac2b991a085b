"""The kinds of checkpoints: what each looks like from outside, and what reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.files import Files

Read = Callable[[Path, Path, Files], Checkpoint]


class Kind(NamedTuple):
    """A kind of checkpoint.

    Attributes:
        name: Its name in messages.
        module: The module that reads it.
        function: The function there.
    """

    name: str
    module: str
    function: str

    @property
    def read(self) -> Read:
        """Reads one checkpoint: its path, the folder it must lie in, the files."""
        function: Read = getattr(import_module(f"trajfile.importers.{self.module}"), self.function)
        return function


SAFETENSORS = Kind("safetensors", "safetensors", "read_safetensors")
TORCH = Kind("PyTorch", "torch_checkpoint", "read_torch")

_SUFFIXES = {
    ".safetensors": SAFETENSORS,
    ".pt": TORCH,
    ".pth": TORCH,
    ".ckpt": TORCH,
    ".bin": TORCH,
    ".pth.tar": TORCH,
}
#: What trainers put beside a model, under names of their own.
_COMPANIONS = re.compile(
    r"(optimizer|scheduler|scaler|rng_state.*|random_states_.*|training_args|sampler.*|optim)"
    r"\.(pt|pth|bin|pkl)"
)
_UNFINISHED = re.compile(
    r"(^tmp[-_.].*)|(^\..*\.(sw.|tmp).*)|(.*\.(tmp|temp|part|partial|incomplete|crdownload)([-_.].*)?$)"
    r"|(.*orbax-checkpoint-tmp.*)",
    re.I,
)


def kind_of(path: Path) -> Kind | None:
    """What a path looks like, by its name and, of a folder, what it holds.

    Args:
        path: A file or folder.

    Returns:
        Its kind; None if it is no checkpoint, or only accompanies one.
    """
    if path.is_dir():
        return kind_of_folder(path)
    name = path.name.lower()
    if _COMPANIONS.fullmatch(name):
        return None
    return _SUFFIXES.get(suffix_of(name))


def kind_of_folder(path: Path) -> Kind | None:
    """What kind of checkpoint a folder is as a whole; None if it is not one checkpoint."""
    del path
    return None


def suffix_of(name: str) -> str:
    """The longest suffix of a name that a kind of file has."""
    matches = [suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)]
    return max(matches, key=len, default="")


def is_unfinished(name: str) -> bool:
    """Whether a name is one that programs give to what they are still writing."""
    return _UNFINISHED.fullmatch(name) is not None
