"""Importing the frameworks that the recorders are tried with, or skipping where one is absent."""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import pytest


def framework(name: str, *beside: str) -> ModuleType:
    """A framework, imported without its own warnings; its tests are skipped if it is absent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith("lightning"):
            _hide_a_torchvision_that_does_not_load()
        for other in beside:
            pytest.importorskip(other)
        return pytest.importorskip(name)


def _hide_a_torchvision_that_does_not_load() -> None:
    """Lightning imports torchvision if it is installed; its build must be that of PyTorch.

    curvlinops brings torchvision along. Built for CUDA, it cannot be imported beside a PyTorch for
    the CPU, and neither could Lightning, which has no need of it.
    """
    utilities = pytest.importorskip("lightning_utilities.core.imports")
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return
    except RuntimeError:
        for loaded in [each for each in sys.modules if each.split(".")[0] == "torchvision"]:
            del sys.modules[loaded]
        sys.modules["torchvision"] = None

        def installed(package: str) -> str:
            if package == "torchvision":
                raise PackageNotFoundError(package)
            return version(package)

        utilities._version = installed
