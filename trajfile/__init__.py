"""trajfile: record a neural network's training trajectory once, and ask it questions later.

`Writer` records, `open` reads, `analyze` answers, `validate` checks, `repair` saves what is whole,
`convert` copies, `export` takes tensors out. Importing the package loads none of h5py, zarr and
torch: each name brings what it needs when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trajfile.version import __version__

if TYPE_CHECKING:
    from trajfile.analyze import analyze as analyze
    from trajfile.convert import convert as convert
    from trajfile.errors import (
        Damaged,
        FormatError,
        MissingStream,
        MissingTensor,
        NotATrajectory,
        RecordError,
        ResourceError,
        ShapeMismatch,
        StepOrder,
        TrajfileError,
        UndeclaredStream,
        UnknownTensor,
        Unsafe,
        UnsupportedVersion,
        UsageError,
    )
    from trajfile.export import export as export
    from trajfile.reader import Trajectory
    from trajfile.reader import open_trajectory as open
    from trajfile.repair import repair as repair
    from trajfile.repaired import RepairReport as RepairReport
    from trajfile.report import Report
    from trajfile.validate import validate as validate
    from trajfile.writer import Writer

__all__ = [
    "Damaged",
    "FormatError",
    "MissingStream",
    "MissingTensor",
    "NotATrajectory",
    "RecordError",
    "RepairReport",
    "Report",
    "ResourceError",
    "ShapeMismatch",
    "StepOrder",
    "Trajectory",
    "TrajfileError",
    "UndeclaredStream",
    "UnknownTensor",
    "Unsafe",
    "UnsupportedVersion",
    "UsageError",
    "Writer",
    "__version__",
    "analyze",
    "convert",
    "export",
    "open",
    "repair",
    "validate",
]

_PLACES = {
    "RepairReport": "repaired",
    "Report": "report",
    "Trajectory": "reader",
    "Writer": "writer",
    "analyze": "analyze",
    "convert": "convert",
    "export": "export",
    "open": "reader",
    "repair": "repair",
    "validate": "validate",
}


class _Package(ModuleType):
    def __setattr__(self, name: str, value: object) -> None:
        # Some names are functions here and modules of the same name below. The import system
        # binds a submodule to its package when it is first imported, from anywhere; the public
        # name must stay the function.
        if _PLACES.get(name) == name and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'trajfile' has no attribute {name!r}")
    module = import_module(f"trajfile.{_PLACES.get(name, 'errors')}")
    value = getattr(module, "open_trajectory" if name == "open" else name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


sys.modules[__name__].__class__ = _Package
