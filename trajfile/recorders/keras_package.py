"""Keras, which `pip install 'trajfile[keras]'` brings."""

from __future__ import annotations

from trajfile.errors import UsageError

try:
    import keras
except ImportError as error:
    raise UsageError(
        "trajfile.recorders.keras needs Keras: pip install 'trajfile[keras]'"
    ) from error

__all__ = ["keras"]
