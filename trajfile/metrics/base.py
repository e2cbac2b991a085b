"""What a metric is: a pure function from measurements to a result, and what it needs for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Need
from trajfile.report import MetricResult


@dataclass(frozen=True)
class Skipped:
    """A metric that cannot be computed on this run, and why. A result, not an exception.

    Attributes:
        reason: One sentence: what is missing, and what to record to get it.
        stream: The stream that is missing, if that is the reason.
        remedy: What to record or declare, in a few words; `stream` if it is that.
    """

    reason: str
    stream: str = ""
    remedy: str = ""

    @property
    def advice(self) -> str | None:
        """What to do, in a few words; None if nothing is known to help."""
        return self.remedy or (f"record {self.stream}" if self.stream else None)


@dataclass(frozen=True)
class Metric(ABC):
    """Base of the metrics. A subclass is a frozen dataclass whose fields are its options.

    Class attributes:
        id: The contract's id.
        title: A few words.
        definition: The quantity in one paragraph, with its equation.
        reference: The paper.
        ingredients: The streams and scalars it draws on, in words.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    definition: ClassVar[str]
    reference: ClassVar[str]
    ingredients: ClassVar[str]

    @abstractmethod
    def needs(self, header: Header) -> frozenset[Need] | Skipped:
        """What must be measured, given what the run holds; or why nothing can be.

        Pure and deterministic: `compute` may call it, or its parts, again.
        """

    @abstractmethod
    def compute(self, measured: Measurements) -> MetricResult:
        """The result, from the measurements that `needs` declared."""

    @property
    def options(self) -> dict[str, float | int | str | bool | None]:
        """The option fields and their values in force."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def collect(needs: Iterable[frozenset[Need] | Skipped]) -> frozenset[Need]:
    """The union of what several metrics need, leaving out the skipped."""
    return frozenset().union(*(n for n in needs if not isinstance(n, Skipped)))
