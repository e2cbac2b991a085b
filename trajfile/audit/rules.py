"""What a rule is: a condition over one report, how severe it is, what it says and advises.

A rule looks at one thing: a metric's summary value, a series, a value of each tensor, a finding, a
fact about the recording, a broken rule of the format, or a failure to read the input. Rules are
data (see `trajfile.audit.rulebook` for their TOML); nothing in one is ever executed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trajfile.errors import UsageError
from trajfile.report import Finding, MetricResult, Severity, Value

Reduce = Literal["any", "last", "first", "max", "min", "mean", "median", "growth"]

#: Exactly one of these says what a rule looks at.
SUBJECTS = ("summary", "series", "tensor", "finding", "fact", "validation", "failure")
_COMPARISONS = ("above", "below", "outside", "equals", "differs", "present", "times_baseline")


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule.

    Attributes:
        id: Its stable id, of lower-case words joined by hyphens.
        severity: ``error``, ``warn`` or ``info``.
        message: One sentence about what was found, with ``{value}``, ``{limit}``, ``{step}``,
            ``{tensor}``, ``{count}`` and ``{detail}`` filled in.
        why: What it means for a training run, for ``--explain``.
        remedy: What to do about it.
        enabled: Whether it applies unless selected away.
        summary: ``<metric>.<name>`` of a summary value.
        series: ``<metric>.<name>`` of a series.
        tensor: ``<metric>.<name>`` of a summary value of every tensor.
        finding: Glob over ids of the report's findings.
        fact: Name of a fact about the recording (`trajfile.audit.facts`).
        validation: Glob over the ids of broken rules of the format.
        failure: Glob over the ways in which an input cannot be examined (`FAILURES`).
        severities: Which severities of findings count, for `finding` and `validation`.
        window: Which part of a series: ``all``, ``first 10%``, ``last 10%`` or steps ``a:b``.
        reduce: What becomes of a series: any value, the last, ..., or its growth, the mean of the
            last tenth over that of the first.
        tensors: Globs over tensor names, for `tensor`.
        above: Trips when the value exceeds this.
        below: Trips when the value is less than this.
        outside: Trips when the value is less than the first or exceeds the second.
        equals: Trips when the value is one of these.
        differs: Trips when the value is none of these.
        present: Trips when there is a value at all.
        times_baseline: Trips when the value exceeds that of the baseline this many times.
        unless: Values that never trip.
    """

    id: str
    severity: Severity
    message: str
    why: str
    remedy: str
    enabled: bool = True
    summary: str | None = None
    series: str | None = None
    tensor: str | None = None
    finding: str | None = None
    fact: str | None = None
    validation: str | None = None
    failure: str | None = None
    severities: tuple[Severity, ...] = ("error", "warn", "info")
    window: str = "all"
    reduce: Reduce = "any"
    tensors: tuple[str, ...] = ("*",)
    above: float | None = None
    below: float | None = None
    outside: tuple[float, float] | None = None
    equals: list[Value] | None = None
    differs: list[Value] | None = None
    present: bool | None = None
    times_baseline: float | None = None
    unless: tuple[Value, ...] = ()

    @property
    def subject(self) -> str:
        """Which of `SUBJECTS` it looks at."""
        return next(name for name in SUBJECTS if getattr(self, name) is not None)

    @property
    def metric(self) -> str | None:
        """The metric that must be computed for it, if any."""
        target = self.summary or self.series or self.tensor or self.finding
        return None if target is None else target.partition(".")[0]

    @property
    def condition(self) -> str:
        """What it looks at and when it trips, in words."""
        target = str(getattr(self, self.subject))
        if self.subject in {"finding", "validation", "failure"}:
            return f"{self.subject} {target}"
        parts = [target]
        if self.subject == "series":
            parts = [
                f"{'any value' if self.reduce == 'any' else self.reduce} of {target}",
                *([] if self.window == "all" else [f"in {self.window}"]),
            ]
        if self.subject == "tensor":
            parts = [f"{target} of a tensor {', '.join(self.tensors)}"]
        return " ".join([*parts, *self._comparisons()])

    def _comparisons(self) -> Iterator[str]:
        if self.above is not None:
            yield f"above {self.above:g}"
        if self.below is not None:
            yield f"below {self.below:g}"
        if self.outside is not None:
            yield f"outside {self.outside[0]:g} to {self.outside[1]:g}"
        if self.equals is not None:
            yield f"is {' or '.join(map(str, self.equals))}"
        if self.differs is not None:
            yield f"is not {' or '.join(map(str, self.differs))}"
        if self.present:
            yield "is there"
        if self.times_baseline is not None:
            yield f"above {self.times_baseline:g} times the baseline"


class Violation(msgspec.Struct, frozen=True):
    """A rule that an input broke.

    Attributes:
        rule: The rule's id.
        severity: The rule's severity.
        message: What was found.
        remedy: What to do about it.
        value: The value that tripped it.
        limit: What it was held against.
        step: The step at which, if it has one.
        tensor: The tensor, if it is about one.
        known: Whether a baseline has it already, so that it does not fail the batch.
    """

    rule: str
    severity: Severity
    message: str
    remedy: str
    value: Value = None
    limit: Value = None
    step: int | None = None
    tensor: str | None = None
    known: bool = False

    @property
    def fingerprint(self) -> str:
        """What makes it the same violation in a later batch: the rule and the tensor."""
        return self.rule if self.tensor is None else f"{self.rule}:{self.tensor}"


class Evidence(msgspec.Struct, frozen=True):
    """All that rules may look at.

    Attributes:
        metrics: Results by metric.
        findings: The findings of the report.
        facts: Facts about the recording.
        validation: Broken rules of the format.
        baseline: For each rule the value that an accepted batch found.
    """

    metrics: dict[str, MetricResult] = {}
    findings: list[Finding] = []
    facts: dict[str, Value] = {}
    validation: list[Finding] = []
    baseline: dict[str, float] = {}


def check_rule(rule: Rule) -> Rule:
    """Check what the types of the fields cannot say.

    Args:
        rule: The rule.

    Returns:
        The rule.

    Raises:
        UsageError: If it looks at nothing or at two things, compares with nothing, or its window
            or message is not of the stated form.
    """
    if problem := _problem(rule):
        raise UsageError(f"rule {rule.id!r}: {problem}")
    parse_window(rule)
    return rule


def _problem(rule: Rule) -> str:
    """What is wrong with a rule; empty if nothing is."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.id):
        return "an id is lower-case words joined by hyphens"
    subjects = [name for name in SUBJECTS if getattr(rule, name) is not None]
    if len(subjects) != 1:
        found = " and ".join(subjects) or "none"
        return f"it must look at exactly one of {', '.join(SUBJECTS)}; found {found}"
    compared = [name for name in _COMPARISONS if getattr(rule, name) is not None]
    bare = rule.subject in {"finding", "validation", "failure"}
    if bare == bool(compared):
        expected = "no comparison" if bare else f"one of {', '.join(_COMPARISONS)}"
        return f"a rule over {rule.subject} takes {expected}; found {compared or 'none'}"
    if rule.subject in {"summary", "series", "tensor"} and (rule.metric or "") == "":
        return f"{rule.subject} must be of the form metric.name"
    try:
        rule.message.format(value=1.0, limit=1.0, step=0, tensor="", count=0, detail="")
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        return f"its message cannot be filled in: {error!r}"
    if re.search(r"\{[^}]*[.\[]", rule.message):
        return "its message may name only value, limit, step, tensor, count and detail"
    return ""


def parse_window(rule: Rule) -> tuple[str, float, float]:
    """The window of a rule: ``("share", from, to)`` of the rows or ``("steps", from, to)``."""
    text = rule.window
    if text == "all":
        return "share", 0.0, 1.0
    if found := re.fullmatch(r"(first|last) (\d+(?:\.\d+)?)%", text):
        share = float(found[2]) / 100
        if 0 < share <= 1:
            return ("share", 0.0, share) if found[1] == "first" else ("share", 1 - share, 1.0)
    if found := re.fullmatch(r"(\d*):(\d*)", text):
        return "steps", float(found[1] or 0), float(found[2] or "inf")
    raise UsageError(
        f"rule {rule.id!r}: window {text!r} is none of 'all', 'first 10%', 'last 10%' and steps "
        "'a:b'"
    )


def windowed(
    rule: Rule, steps: NDArray[np.int64], values: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The part of a series within a rule's window; at least one value of a share."""
    kind, start, stop = parse_window(rule)
    if kind == "steps":
        inside = (steps >= start) & (steps < stop)
        return steps[inside], values[inside]
    count = len(steps)
    first = min(int(np.floor(start * count)), max(count - 1, 0))
    last = max(int(np.ceil(stop * count)), first + 1)
    return steps[first:last], values[first:last]


def matches(name: str, globs: Sequence[str]) -> bool:
    """Whether a name matches one of some globs, upper and lower case apart."""
    return any(fnmatchcase(name, glob) for glob in globs)


def numeric(value: Any) -> float | None:
    """A number out of a summary value; None for anything else, booleans included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)
