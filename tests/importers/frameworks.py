"""Importing a framework when a test first needs it, or skipping where it is absent."""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

import pytest


def framework(name: str) -> ModuleType:
    """A framework, imported without its own warnings; the test is skipped if it is absent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in {"lightning", "transformers"}:
            _hide_a_torchvision_that_does_not_load()
        return pytest.importorskip(name)


def _hide_a_torchvision_that_does_not_load() -> None:
    """Both import torchvision if it is there; built for another PyTorch, it takes them down."""
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
