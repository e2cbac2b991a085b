"""Examining one input: open it, check it, analyse it, and hold it against the rules.

Nothing an input does ends the batch: whatever goes wrong becomes the failure of that input alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from trajfile.audit.content import identity_of
from trajfile.audit.evaluate import evaluate, value_of
from trajfile.audit.facts import facts_of
from trajfile.audit.failure import against, failed, failure
from trajfile.audit.outcome import Accepted, Outcome, Settings
from trajfile.audit.rules import Evidence, numeric
from trajfile.reader import Trajectory
from trajfile.report import SEVERITIES, Finding

if TYPE_CHECKING:
    from trajfile.containers.base import Container
    from trajfile.engine.plan import Plan


@dataclass(frozen=True, eq=False)
class Divided:
    """A huge input, examined as far as the plan of its pass, which is to be made in parts.

    Attributes:
        identity: What the input held then.
        plan: The plan.
        validation: Which rules of the format it breaks.
        seconds: How long that took.
    """

    identity: str
    plan: Plan
    validation: list[Finding]
    seconds: float

    @property
    def parts(self) -> int:
        """How many parts its pass has."""
        return len(self.plan.parts)


class _Huge(Exception):
    """Raised instead of making a pass that is to be divided."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan


def examine(path: str, settings: Settings) -> Outcome | Divided:
    """Examine one input.

    Args:
        path: A trajectory or a checkpoint folder.
        settings: How.

    Returns:
        Its outcome, whatever happened; only an interruption goes through. Of a huge input, what
        is left to be done.
    """

    def through(plan: Plan, container: Container, machine: Any, progress: Any) -> Any:
        from trajfile.engine.stream import run_pass

        huge = plan.bytes_to_read > settings.divide_above and len(plan.parts) > 1
        if huge and not _built(container):
            raise _Huge(plan)
        return run_pass(_on_threads(plan, settings), container, machine, progress)

    started = time.perf_counter()
    identity = identity_of(path)  # as it is before anything is read
    validation: list[Finding] = []

    def check(trajectory: Trajectory) -> list[Finding]:
        from trajfile.validate import check as check_format

        validation.extend(check_format(trajectory.container, deep=settings.deep))
        return validation

    try:
        outcome = _examined(path, settings, identity, check, through, cache=settings.cache)
    except _Huge as huge:
        if settings.cache:  # the plan may be of new rows only, and parts are of the whole
            return examine(path, msgspec.structs.replace(settings, cache=False))
        return Divided(identity, huge.plan, validation, time.perf_counter() - started)
    except Exception as error:
        outcome = failure(path, error, settings)
    return msgspec.structs.replace(outcome, seconds=time.perf_counter() - started)


def examine_part(path: str, divided: Divided, number: int, settings: Settings) -> Any:
    """Make a part of the pass over a huge input.

    Args:
        path: The input.
        divided: What is to be done of it.
        number: Which part.
        settings: How.

    Returns:
        What it brought, with the seconds that it took; or, if it failed, the input's outcome.
    """
    from trajfile.engine.device import machine_for
    from trajfile.engine.stream import run_part
    from trajfile.reader import open_trajectory

    started = time.perf_counter()
    plan = _on_threads(divided.plan, settings)
    try:
        with open_trajectory(path, trust=settings.trust) as trajectory:
            if identity_of(path) != divided.identity:
                detail = f"{path} was changed while it was examined: try again"
                return failed(path, "unreadable", detail, settings)
            machine = machine_for(settings.device)
            made = run_part(plan, plan.parts[number], trajectory.container, machine)
    except Exception as error:
        return failure(path, error, settings)
    return made, time.perf_counter() - started


def conclude(path: str, divided: Divided, *made: Any) -> Outcome:
    """Merge the parts of a huge input and hold what they say against the rules.

    Args:
        path: The input.
        divided: What was to be done of it.
        made: What `examine_part` returned of each part, in order, and after them the settings.

    Returns:
        The outcome.
    """
    started = time.perf_counter()
    *parts, settings = made
    failing = next((part for part in parts if isinstance(part, Outcome)), None)
    if failing is not None:
        return failing

    def through(plan: Plan, container: Container, machine: Any, progress: Any) -> Any:
        from trajfile.engine.stream import conclude_pass

        del plan, container, progress
        return conclude_pass(divided.plan, (part for part, _ in parts), machine.device)

    try:
        outcome = _examined(path, settings, divided.identity, lambda _: divided.validation, through)
    except Exception as error:
        outcome = failure(path, error, settings)
    spent = divided.seconds + sum(seconds for _, seconds in parts)
    return msgspec.structs.replace(outcome, seconds=spent + time.perf_counter() - started)


def _built(container: Container) -> bool:
    """Whether code was run to read it: each part of a divided pass would run it again."""
    return any(checkpoint.ran for checkpoint in getattr(container, "checkpoints", ()))


def _on_threads(plan: Plan, settings: Settings) -> Plan:
    return plan.on_threads(settings.threads) if settings.threads else plan


def _examined(
    path: str,
    settings: Settings,
    identity: str,
    check: Callable[[Trajectory], list[Finding]],
    through: Callable[..., Any],
    *,
    cache: bool = False,
) -> Outcome:
    from trajfile.analyze import analyze
    from trajfile.reader import open_trajectory

    with open_trajectory(path, trust=settings.trust) as trajectory:
        validation = check(trajectory)
        wanted = settings.rules.metrics()
        report = analyze(
            trajectory,
            metrics=_computable(trajectory, wanted),
            device=settings.device,
            memory=settings.memory,
            cache=cache,
            through=through,
        )
        accepted = settings.baseline.get(path, Accepted())
        evidence = Evidence(
            report.metrics,
            report.findings,
            facts_of(trajectory.header()),
            validation,
            accepted.values,
        )
        rules = settings.rules.applying()
        found = sorted(evaluate(rules, evidence), key=lambda item: SEVERITIES.index(item.severity))
        return Outcome(
            path,
            "ok",
            identity,
            trajectory.container.kind,
            bytes_read=report.run.bytes_read,
            verdict=report.verdict,
            violations=[against(item, accepted) for item in found],
            values=_values(rules, evidence),
        )


def _computable(trajectory: Trajectory, wanted: list[str]) -> list[str]:
    """Those of some metrics that do not lack a stream: asking for others would be an error."""
    from trajfile.metrics import METRICS
    from trajfile.metrics.base import Skipped

    header = trajectory.header()
    lacking = {
        name
        for name in wanted
        if isinstance(need := METRICS[name]().needs(header), Skipped) and need.stream
    }
    return [name for name in wanted if name not in lacking]


def _values(rules: list[Any], evidence: Evidence) -> dict[str, float]:
    values = {}
    for rule in rules:
        if rule.subject in {"summary", "series", "fact"}:
            value = numeric(value_of(rule, evidence)[0])
            if value is not None:
                values[rule.id] = value
    return values
