"""The outcome of an input that could not be examined."""

from __future__ import annotations

import msgspec

from trajfile.audit.content import identity_of
from trajfile.audit.evaluate import violation
from trajfile.audit.outcome import Accepted, Outcome, Settings, Status
from trajfile.audit.rules import Violation, matches
from trajfile.errors import Damaged, FormatError, ResourceError, Unsafe


def failure(path: str, error: Exception, settings: Settings) -> Outcome:
    """The outcome of an input over which an error was raised."""
    status, detail = failure_of(error)
    rule = error.rule if isinstance(error, FormatError) else ""
    return failed(path, status, detail, settings, rule)


def failed(
    path: str, status: Status, detail: str, settings: Settings, broken_rule: str = ""
) -> Outcome:
    """The outcome of an input that could not be examined, whichever rule of the format it broke."""
    accepted = settings.baseline.get(path, Accepted())
    broken = [
        against(violation(rule, status, detail=detail), accepted)
        for rule in settings.rules.applying()
        if (rule.failure is not None and matches(status, [rule.failure]))
        or (broken_rule and rule.validation == broken_rule)
    ]
    return Outcome(path, status, identity_of(path), violations=broken)


def failure_of(error: BaseException) -> tuple[Status, str]:
    """The kind of failure an error stands for, and its sentence."""
    match error:
        case Damaged():
            return "damaged", str(error)
        case Unsafe():
            return "unsafe", str(error)
        case FormatError() | OSError():
            return "unreadable", str(error)
        case ResourceError() | MemoryError():
            return "resources", str(error) or "out of memory"
    return "internal", f"{type(error).__name__}: {error}"


def against(item: Violation, accepted: Accepted) -> Violation:
    """A violation, marked as known if the baseline has it."""
    known = item.fingerprint in accepted.violations
    return msgspec.structs.replace(item, known=True) if known else item
