"""Importing a framework when a test first needs it, or skipping where it is absent."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import pytest

#: What imports torchvision if it is installed, with no need of it.
_WITH_TORCHVISION = {"accelerate", "keras", "lightning", "transformers"}


def framework(name: str, *beside: str) -> ModuleType:
    """A framework, imported without its own warnings.

    Args:
        name: Its module.
        *beside: Others that must be there too.

    Returns:
        The module; the tests are skipped if one of them is absent.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "keras":
            os.environ.setdefault("KERAS_BACKEND", "torch")  # the choice is the whole process's
        if name.split(".")[0] in _WITH_TORCHVISION:
            _hide_a_torchvision_that_does_not_load()
        for other in beside:
            pytest.importorskip(other)
        return pytest.importorskip(name)


class Later:
    """A framework that is imported when a test first asks for something of it.

    Every worker collects every module of tests, and need not import what another one tests.

    Args:
        name: Its module.
        *beside: Others that must be there too.
    """

    def __init__(self, name: str, *beside: str):
        self._named = name, *beside

    def __getattr__(self, name: str) -> Any:
        """What the module holds by a name; not what pytest asks of all it collects."""
        if name.startswith(("_", "pytest")):
            raise AttributeError(name)
        return getattr(framework(*self._named), name)


def _hide_a_torchvision_that_does_not_load() -> None:
    """Take a torchvision that is built for another PyTorch out of sight.

    curvlinops brings torchvision along. Built for CUDA, it cannot be imported beside a PyTorch for
    the CPU, and takes down what imports it because it is there.
    """
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for loaded in [each for each in sys.modules if each.split(".")[0] == "torchvision"]:
            del sys.modules[loaded]
        sys.modules["torchvision"] = None

        def installed(package: str) -> str:
            if package == "torchvision":
                raise PackageNotFoundError(package)
            return version(package)

        try:
            import lightning_utilities.core.imports as utilities
        except ImportError:
            return
        utilities._version = installed
