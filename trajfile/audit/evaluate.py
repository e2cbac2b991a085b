"""Holding the evidence on one input against the rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from trajfile.audit.rules import Evidence, Rule, Violation, matches, numeric, windowed
from trajfile.report import Finding, Series, Value

#: Of one rule over tensors, more violations than this are summed up in one.
MOST_TENSORS = 5


def evaluate(rules: Iterable[Rule], evidence: Evidence) -> Iterator[Violation]:
    """The violations of some rules, in their order.

    A rule whose subject is not there (a metric that could not be computed, a tensor without the
    value) does not trip.

    Args:
        rules: The rules.
        evidence: What is known of the input.

    Yields:
        The violations.
    """
    for rule in rules:
        match rule.subject:
            case "summary" | "fact":
                yield from _single(rule, *value_of(rule, evidence), evidence)
            case "series":
                yield from _series(rule, evidence)
            case "tensor":
                yield from _tensors(rule, evidence)
            case "finding":
                yield from _found(rule, str(rule.finding), evidence.findings)
            case "validation":
                yield from _found(rule, str(rule.validation), evidence.validation)


def value_of(rule: Rule, evidence: Evidence) -> tuple[Value, int | None]:
    """The one value that a rule looks at, and the step that it is of, if any."""
    if rule.subject == "fact":
        return evidence.facts.get(str(rule.fact)), None
    metric, _, name = str(getattr(rule, rule.subject)).partition(".")
    result = evidence.metrics.get(metric)
    if result is None:
        return None, None
    if rule.subject == "summary":
        return result.summary.get(name), None
    if rule.subject == "series" and rule.reduce != "any":
        return _reduced(rule, result.series.get(name))
    return None, None


def violation(
    rule: Rule,
    value: Value,
    limit: Value = None,
    *,
    step: int | None = None,
    tensor: str | None = None,
    count: int = 1,
    detail: str = "",
) -> Violation:
    """A violation with its message filled in."""
    shown = {
        "value": _shown(value),
        "limit": _shown(limit),
        "step": "?" if step is None else step,
        "tensor": tensor or "?",
        "count": count,
        "detail": detail,
    }
    return Violation(
        rule.id,
        rule.severity,
        rule.message.format(**shown),
        rule.remedy,
        value,
        limit,
        step,
        tensor,
    )


def _shown(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        more = f" and {len(value) - 5} more" if len(value) > 5 else ""
        return ", ".join(_shown(item) for item in value[:5]) + more
    return str(value)


def _trips(rule: Rule, value: Value, baseline: float | None) -> tuple[bool, Value]:
    """Whether a value trips a rule, and the limit that it broke."""
    if value is None or value in rule.unless:
        return False, None
    if rule.present:
        return True, None
    if rule.equals is not None and value in rule.equals:
        return True, rule.equals
    if rule.differs is not None and value not in rule.differs:
        return True, rule.differs
    found = numeric(value)
    if found is None:
        return False, None
    low, high = rule.outside or (None, None)
    for limit in (rule.above, high):
        if limit is not None and found > limit:
            return True, limit
    for limit in (rule.below, low):
        if limit is not None and found < limit:
            return True, limit
    if rule.times_baseline is not None and baseline is not None:
        limit = rule.times_baseline * baseline
        return found > limit, limit
    return False, None


def _single(rule: Rule, value: Value, step: int | None, evidence: Evidence) -> Iterator[Violation]:
    tripped, limit = _trips(rule, value, evidence.baseline.get(rule.id))
    if tripped:
        yield violation(rule, value, limit, step=step)


def _series(rule: Rule, evidence: Evidence) -> Iterator[Violation]:
    if rule.reduce != "any":
        yield from _single(rule, *value_of(rule, evidence), evidence)
        return
    metric, _, name = str(rule.series).partition(".")
    result = evidence.metrics.get(metric)
    found = None if result is None else result.series.get(name)
    if found is None:
        return
    steps, values = windowed(rule, *_arrays(found))
    baseline = evidence.baseline.get(rule.id)
    tripped = [
        (int(step), float(value), limit)
        for step, value in zip(steps, values, strict=True)
        if np.isfinite(value)
        for trips, limit in [_trips(rule, float(value), baseline)]
        if trips
    ]
    if tripped:
        step, value, limit = tripped[0]
        yield violation(rule, value, limit, step=step, count=len(tripped))


def _tensors(rule: Rule, evidence: Evidence) -> Iterator[Violation]:
    metric, _, name = str(rule.tensor).partition(".")
    result = evidence.metrics.get(metric)
    if result is None:
        return
    broken = []
    for tensor, of_tensor in result.per_tensor.items():
        if matches(tensor, rule.tensors):
            value = of_tensor.summary.get(name)
            tripped, limit = _trips(rule, value, None)
            if tripped:
                broken.append((tensor, value, limit))
    for tensor, value, limit in broken[:MOST_TENSORS]:
        yield violation(rule, value, limit, tensor=tensor, count=len(broken))
    if len(broken) > MOST_TENSORS:
        rest = [tensor for tensor, _, _ in broken[MOST_TENSORS:]]
        yield Violation(
            rule.id,
            rule.severity,
            f"The same of {len(rest)} more tensors, first {rest[0]}.",
            rule.remedy,
            len(rest),
        )


def _found(rule: Rule, glob: str, findings: list[Finding]) -> Iterator[Violation]:
    hits = [f for f in findings if matches(f.id, [glob]) and f.severity in rule.severities]
    if hits:
        first = hits[0]
        step = first.evidence.get("step")
        yield violation(
            rule,
            first.id,
            step=step if isinstance(step, int) else None,
            count=len(hits),
            detail=first.message,
        )


def _arrays(series: Series) -> tuple[np.ndarray, np.ndarray]:
    values = [np.nan if value is None else value for value in series.value]
    return np.array(series.step, np.int64), np.array(values, np.float64)


def _reduced(rule: Rule, series: Series | None) -> tuple[Value, int | None]:
    """A series brought down to one number, and the step it is of where it has one."""
    if series is None:
        return None, None
    steps, values = windowed(rule, *_arrays(series))
    finite = np.isfinite(values)
    steps, values = steps[finite], values[finite]
    if not len(values):
        return None, None
    match rule.reduce:
        case "last":
            return float(values[-1]), int(steps[-1])
        case "first":
            return float(values[0]), int(steps[0])
        case "max":
            at = int(np.argmax(values))
            return float(values[at]), int(steps[at])
        case "min":
            at = int(np.argmin(values))
            return float(values[at]), int(steps[at])
        case "mean":
            return float(values.mean()), None
        case "median":
            return float(np.median(values)), None
    tenth = max(1, len(values) // 10)
    before = float(np.abs(values[:tenth]).mean())
    after = float(np.abs(values[-tenth:]).mean())
    return (after / before if before and len(values) > 1 else None), None
