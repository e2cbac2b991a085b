"""The kinds of checkpoints: what each looks like from outside, and what reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.files import Files
from trajfile.importers.steps import step_in_name

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
NUMPY = Kind("NumPy", "numpy_file", "read_numpy")
KERAS = Kind("Keras", "keras_file", "read_keras")
MODEL_FOLDER = Kind("model folders", "model_folder", "read_model_folder")
DISTRIBUTED = Kind("PyTorch distributed", "distributed", "read_distributed")
ORBAX = Kind("Orbax", "orbax", "read_orbax")

_SUFFIXES = {
    ".safetensors": SAFETENSORS,
    ".pt": TORCH,
    ".pth": TORCH,
    ".ckpt": TORCH,
    ".bin": TORCH,
    ".pth.tar": TORCH,
    ".npz": NUMPY,
    ".weights.h5": KERAS,
}
#: The model within a folder that is one checkpoint, most telling first.
_MODELS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
_INDEXES = (".safetensors.index.json", ".bin.index.json")
_ORBAX_FILES = {"_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt"}
#: What trainers put beside a model, under names of their own.
_COMPANIONS = re.compile(
    r"(optimizer|scheduler|scaler|rng_state.*|random_states_.*|training_args|sampler.*|optim)"
    r"\.(pt|pth|bin|pkl)"
)
_TRAINER_FOLDER = re.compile(r"checkpoint-\d+")
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
        return kind_of_folder(path) or (MODEL_FOLDER if _only_file(path) is not None else None)
    name = path.name.lower()
    if _COMPANIONS.fullmatch(name):
        return None
    return _SUFFIXES.get(suffix_of(name))


def kind_of_folder(path: Path) -> Kind | None:
    """What kind of checkpoint a folder is as a whole, by names that only such a folder holds.

    Args:
        path: The folder.

    Returns:
        Its kind; None if it is not one checkpoint.
    """
    names = _names(path)
    if ".metadata" in names:
        return DISTRIBUTED
    if _ORBAX_FILES & names:
        return ORBAX
    if any(_TRAINER_FOLDER.fullmatch(name) for name in names):
        return None  # the last model, saved beside the checkpoints before it
    return MODEL_FOLDER if _model_in(names) is not None else None


def model_file(path: Path) -> Path:
    """The model within a folder of the kind `MODEL_FOLDER`."""
    name = _model_in(_names(path)) or _only_file(path)
    assert name is not None
    return path / name


def _model_in(names: set[str]) -> str | None:
    indexes = sorted(name for name in names if name.endswith(_INDEXES))
    return next((name for name in (*_MODELS, *indexes) if name in names), None)


def _only_file(path: Path) -> str | None:
    """The checkpoint in a folder such as ``step_100``, if it holds one that could be meant."""
    if step_in_name(path.name)[0] is None:
        return None
    held = [n for n in _names(path) if suffix_of(n) and not _COMPANIONS.fullmatch(n.lower())]
    if len(held) != 1 or _SUFFIXES[suffix_of(held[0])] not in {TORCH, SAFETENSORS}:
        return None
    return held[0]


def _names(path: Path) -> set[str]:
    try:
        return {entry.name for entry in path.iterdir()}
    except OSError:
        return set()


def suffix_of(name: str) -> str:
    """The longest suffix of a name that a kind of file has."""
    matches = [suffix for suffix in _SUFFIXES if name.lower().endswith(suffix)]
    return max(matches, key=len, default="")


def is_unfinished(name: str) -> bool:
    """Whether a name is one that programs give to what they are still writing."""
    return _UNFINISHED.fullmatch(name) is not None
