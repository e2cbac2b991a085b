"""What every form is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trajfile.audit.ledger import Summary
from trajfile.audit.outcome import Outcome
from trajfile.audit.rulebook import Rulebook

SCHEMA = "trajfile.audit/1"


@dataclass(frozen=True)
class Result:
    """A finished batch.

    Attributes:
        summary: The counts.
        rules: The rules that were applied.
        outcomes: Yields every outcome, the worst first, as often as it is called.
    """

    summary: Summary
    rules: Rulebook
    outcomes: Callable[[], Iterator[Outcome]]


def printable(text: str) -> str:
    """Text without characters that XML forbids or a log would act on."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
