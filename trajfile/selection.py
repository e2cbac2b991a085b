"""Which tensors and which steps: globs over names, slices over step values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from trajfile.errors import UsageError

_LAST = 2**63 - 1  # beyond any step, and the most that an int64 comparison takes
_STEPS = re.compile(r"(\d*):(\d*)(?::(\d*))?")


@dataclass(frozen=True)
class StepSlice:
    """Steps a <= step < b with (step - a) divisible by s. Values, not positions.

    Attributes:
        start: a; 0 if not given.
        stop: b; None for no end.
        stride: s.
    """

    start: int = 0
    stop: int | None = None
    stride: int = 1

    @classmethod
    def parse(cls, steps: slice | str | None) -> StepSlice:
        """Read a selection of steps.

        Args:
            steps: A slice of step values, its text ``a:b`` or ``a:b:s`` with any part left out,
                or None for all steps.

        Returns:
            The selection.

        Raises:
            UsageError: If it is neither, or an end is negative or the stride below 1.
        """
        if steps is None:
            return cls()
        if isinstance(steps, str):
            match = _STEPS.fullmatch(steps.strip())
            if match is None:
                raise UsageError(
                    f"steps {steps!r} is not a selection: write a:b or a:b:s in step values, such "
                    "as 1000:2000 or ::100"
                )
            steps = slice(*(int(part) if part else None for part in match.groups()))
        _check_slice(steps)
        start, stop, stride = steps.start or 0, steps.stop, steps.step
        stride = 1 if stride is None else stride
        if start < 0 or (stop is not None and stop < 0) or stride < 1:
            raise UsageError(
                f"steps {start}:{'' if stop is None else stop}:{stride}: the ends are step values "
                "of at least 0, and the stride is at least 1"
            )
        return cls(
            min(start, _LAST), None if stop is None else min(stop, _LAST), min(stride, _LAST)
        )

    def __call__(self, steps: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the steps are selected.

        Args:
            steps: Steps, int64, shape (n,).

        Returns:
            bool, shape (n,).
        """
        chosen: NDArray[np.bool_] = steps >= self.start
        chosen &= (steps - self.start) % self.stride == 0
        return chosen if self.stop is None else chosen & (steps < self.stop)

    def __str__(self) -> str:
        """The text form."""
        end = "" if self.stop is None else self.stop
        return f"{self.start}:{end}" + (f":{self.stride}" if self.stride > 1 else "")


def select_tensors(names: Iterable[str], globs: Sequence[str] | str | None) -> frozenset[str]:
    """The tensor names that match at least one glob, case by case.

    Args:
        names: All tensor names.
        globs: One or several shell patterns; None selects all.

    Returns:
        The selected names.

    Raises:
        UsageError: If a pattern matches nothing (near misses are named), or is no text.
    """
    known = list(dict.fromkeys(names))
    if globs is None:
        return frozenset(known)
    chosen: set[str] = set()
    for glob in as_texts(globs):
        matched = [name for name in known if fnmatchcase(name, glob)]
        if not matched:
            import difflib  # only where there is something to suggest

            near = difflib.get_close_matches(glob, known, n=3, cutoff=0.4) or known[:3]
            hint = f"near it: {', '.join(near)}" if near else "the file holds no tensors"
            raise UsageError(f"no tensor matches {glob!r} ({hint})")
        chosen.update(matched)
    return frozenset(chosen)


def _check_slice(steps: object) -> None:
    parts = [steps.start, steps.stop, steps.step] if isinstance(steps, slice) else [steps]
    whole = all(part is None or isinstance(part, (int, np.integer)) for part in parts)
    if not isinstance(steps, slice) or not whole:
        raise UsageError(
            f"steps {steps!r} are no selection: give a slice of step values such as "
            "slice(1000, 2000, 10), or its text '1000:2000:10'"
        )


def as_texts(globs: object) -> list[str]:
    """One or several patterns as a list.

    Args:
        globs: A text, or an iterable of texts.

    Returns:
        The texts.

    Raises:
        UsageError: If it is neither.
    """
    if isinstance(globs, str):
        return [globs]
    listed = list(globs) if isinstance(globs, Iterable) else [globs]
    texts = [glob for glob in listed if isinstance(glob, str)]
    if len(texts) == len(listed):
        return texts
    raise UsageError(f"params are globs over tensor names such as 'conv*', found {globs!r}")
