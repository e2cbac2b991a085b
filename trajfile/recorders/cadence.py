"""When to record: pure rules over step numbers, with a short language to write them in.

======================  ====================================================================
``every 10``            steps 0, 10, 20, ...
``4 every 100``         bursts: 0-3, 100-103, 200-203, ...
``log 10``              step 0, then 10 steps in each decade, evenly spaced on a log scale
``4 log 10``            a burst of 4 from each of those
``first 50``            steps 0 to 49
``at 0, 17, 400``       these
``20 on spike 2``       20 steps from the one whose loss exceeds twice its running median
``never``               none
======================  ====================================================================

Rules are joined by ``+``. What needs consecutive steps (secant curvature, the imbalance law, the
jumps of a trajectory, exact updates) asks for bursts.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trajfile.errors import UsageError

Steps = NDArray[np.int64]


class Cadence(Protocol):
    """A rule that says at which steps something is recorded."""

    def due(self, step: int) -> bool:
        """Whether it asks for this step, events apart."""

    def steps(self, stop: int) -> Steps:
        """The steps below ``stop`` that it asks for, ascending, int64; events apart."""


@dataclass(frozen=True)
class Bursts:
    """``length`` consecutive steps at the start of each ``every``: ``4 every 100``.

    Attributes:
        every: Steps from the start of one burst to that of the next.
        length: Steps in each.
    """

    every: int
    length: int = 1

    def __post_init__(self) -> None:
        """Refuse what is not a rhythm.

        Raises:
            UsageError: If a number is below 1.
        """
        _positive(self.every, "every")
        _positive(self.length, "a burst's length")

    def due(self, step: int) -> bool:
        """Whether the step lies in a burst."""
        return step % self.every < self.length

    def steps(self, stop: int) -> Steps:
        """All steps of all bursts below ``stop``."""
        return _bursts(np.arange(0, stop, self.every, dtype=np.int64), self.length, stop)

    def __str__(self) -> str:
        """The text that `cadence` reads."""
        return f"{_length(self.length)}every {self.every}"


@dataclass(frozen=True)
class LogSpaced:
    """Steps 0, 1 and on, evenly spaced on a log scale: ``log 10``.

    Attributes:
        per_decade: Steps between n and 10 n.
        length: Consecutive steps from each.
    """

    per_decade: int
    length: int = 1

    def __post_init__(self) -> None:
        """Refuse what is not a rhythm.

        Raises:
            UsageError: If a number is below 1.
        """
        _positive(self.per_decade, "steps per decade")
        _positive(self.length, "a burst's length")

    def due(self, step: int) -> bool:
        """Whether the step is one of them or lies in the burst from one."""
        return any(self._starts_at(start) for start in range(step, step - self.length, -1))

    def steps(self, stop: int) -> Steps:
        """All of them below ``stop``."""
        powers = range(int(self.per_decade * math.log10(max(stop, 1))) + 2)
        starts = {0, *(self._power(power) for power in powers)}
        return _bursts(np.array(sorted(starts), np.int64), self.length, stop)

    def _power(self, power: int) -> int:
        return round(10 ** (power / self.per_decade))

    def _starts_at(self, step: int) -> bool:
        if step < 1:
            return step == 0
        near = round(self.per_decade * math.log10(step))
        return any(self._power(power) == step for power in range(max(near - 1, 0), near + 2))

    def __str__(self) -> str:
        """The text that `cadence` reads."""
        return f"{_length(self.length)}log {self.per_decade}"


@dataclass(frozen=True)
class At:
    """These steps and no others: ``at 0, 17, 400``."""

    at: frozenset[int]

    def due(self, step: int) -> bool:
        """Whether it is one of them."""
        return step in self.at

    def steps(self, stop: int) -> Steps:
        """Those below ``stop``."""
        return np.array(sorted(step for step in self.at if step < stop), np.int64)

    def __str__(self) -> str:
        """The text that `cadence` reads."""
        return "at " + ", ".join(map(str, sorted(self.at))) if self.at else "never"


@dataclass(frozen=True)
class First:
    """The first steps, all of them: ``first 50``."""

    count: int

    def __post_init__(self) -> None:
        """Refuse what is not a number of steps.

        Raises:
            UsageError: If it is below 1.
        """
        _positive(self.count, "the number of first steps")

    def due(self, step: int) -> bool:
        """Whether the step is among them."""
        return step < self.count

    def steps(self, stop: int) -> Steps:
        """Those below ``stop``."""
        return np.arange(min(self.count, stop), dtype=np.int64)

    def __str__(self) -> str:
        """The text that `cadence` reads."""
        return f"first {self.count}"


@dataclass(frozen=True)
class OnSpike:
    """A burst from the step whose loss stands out: ``20 on spike 2``.

    A loss is a spike when it exceeds ``factor`` times the median of the last losses, or is not
    finite. `trajfile.recorders.clock.Clock` sees to it, since only it hears the losses.

    Attributes:
        factor: How many times the running median.
        length: Consecutive steps from the spike on.
    """

    factor: float
    length: int = 10

    def __post_init__(self) -> None:
        """Refuse what is not a spike.

        Raises:
            UsageError: If the factor is not above 1 or the length below 1.
        """
        _positive(self.length, "a burst's length")
        if not 1 < self.factor < math.inf:
            raise UsageError(f"a spike of {self.factor} times the usual loss: expected above 1")

    def due(self, step: int) -> bool:
        """No step is known ahead."""
        return False

    def steps(self, stop: int) -> Steps:
        """None is known ahead."""
        return np.empty(0, np.int64)

    def __str__(self) -> str:
        """The text that `cadence` reads."""
        return f"{self.length} on spike {self.factor:g}"


@dataclass(frozen=True)
class Union:
    """Every step that any of several rules asks for: ``log 10 + 4 every 100``."""

    parts: tuple[Cadence, ...]

    def due(self, step: int) -> bool:
        """Whether one of them asks for it."""
        return any(part.due(step) for part in self.parts)

    def steps(self, stop: int) -> Steps:
        """All that any of them asks for."""
        return np.unique(np.concatenate([part.steps(stop) for part in self.parts]))

    def __str__(self) -> str:
        """The text that `cadence` reads."""
        return " + ".join(map(str, self.parts))


def parts_of(rule: Cadence) -> tuple[Cadence, ...]:
    """The rules that a rule is joined from; itself if it is one."""
    return rule.parts if isinstance(rule, Union) else (rule,)


def cadence(rule: str | int | Cadence) -> Cadence:
    """A cadence from its text.

    Args:
        rule: In the language of this module; a whole number n stands for ``every n``.

    Returns:
        The cadence; one that is passed comes back as it is.

    Raises:
        UsageError: If the text is not in the language.

    Example:
        >>> cadence("4 every 100 + first 10").steps(105).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 100, 101, 102, 103]
    """
    if isinstance(rule, int):
        return Bursts(rule)
    if not isinstance(rule, str):
        return rule
    parts = tuple(_part(text.strip(), rule) for text in rule.split("+"))
    return parts[0] if len(parts) == 1 else Union(parts)


_RULE = re.compile(
    r"(?:(?P<length>\d+) +)?(?:every +(?P<every>\d+)|log +(?P<log>\d+)"
    r"|on +spike(?: +(?P<spike>[\d.]+))?)|first +(?P<first>\d+)|at +(?P<at>\d+(?: *, *\d+)*)"
    r"|(?P<never>never)"
)


def _part(text: str, whole: str) -> Cadence:
    found = _RULE.fullmatch(text)
    if found is None:
        raise UsageError(
            f"schedule {whole!r}: {text!r} is not a rule; expected 'every 10', '4 every 100' "
            "(bursts), 'log 10', '4 log 10', 'first 50', 'at 0, 17', '20 on spike 2' or 'never', "
            "joined by '+'"
        )
    length = int(found["length"] or 1)
    if found["every"]:
        return Bursts(int(found["every"]), length)
    if found["log"]:
        return LogSpaced(int(found["log"]), length)
    if found["first"]:
        return First(int(found["first"]))
    if found["at"]:
        return At(frozenset(int(step) for step in found["at"].split(",")))
    if found["never"]:
        return At(frozenset())
    return OnSpike(float(found["spike"] or 2), int(found["length"] or 10))


def _bursts(starts: Steps, length: int, stop: int) -> Steps:
    steps = np.unique(starts[:, None] + np.arange(length, dtype=np.int64))
    return steps[steps < stop]


def _length(length: int) -> str:
    return f"{length} " if length > 1 else ""


def _positive(number: int, what: str) -> None:
    if number < 1:
        raise UsageError(f"{what} is {number}, expected at least 1")
