"""Compiling by Numba, and keeping what was compiled for as long as its sources stay as they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numba


def compiler(*sources: str | None, **options: Any) -> Callable[..., Any]:
    """What compiles functions, to run without Python's lock.

    For whether what it kept still holds, Numba looks at the file of a function alone, not at those
    that the functions and constants in it come from. So a digest of all of them is put in its name.

    Args:
        sources: The files, as modules name them.
        **options: Of `numba.njit`.

    Returns:
        A function of a function, and of its signature if it is to be compiled at once.
    """
    mark = _mark(sources)

    def compiled(function: Any, signature: Any = None) -> Any:
        function.__qualname__ += mark
        njit: Any = numba.njit
        try:
            return njit(signature, nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no place to keep what was compiled
            return njit(signature, nogil=True, **options)(function)

    return compiled


def callback(*sources: str | None) -> Callable[..., Any]:
    """What compiles functions that a library of C calls.

    Args:
        sources: As of `compiler`.

    Returns:
        A function of a function and of its signature; what it gives has an ``address``.
    """
    mark = _mark(sources)

    def compiled(function: Any, signature: Any) -> Any:
        function.__qualname__ += mark
        try:
            return numba.cfunc(signature, cache=True)(function)
        except RuntimeError:  # no place to keep what was compiled
            return numba.cfunc(signature)(function)

    return compiled


def _mark(sources: tuple[str | None, ...]) -> str:
    digest = hashlib.sha256()
    for source in sources:
        with suppress(OSError):  # where sources are missing, nothing is kept
            digest.update(Path(source or "").read_bytes())
    return "_" + digest.hexdigest()[:12]
