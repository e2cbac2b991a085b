"""Examining one input: open it, check it, analyse it, and hold it against the rules.

Nothing an input does ends the batch: whatever goes wrong becomes the failure of that input alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from trajfile.audit.evaluate import evaluate, value_of, violation
from trajfile.audit.facts import facts_of
from trajfile.audit.rulebook import Rulebook
from trajfile.audit.rules import Evidence, Violation, matches, numeric
from trajfile.errors import Damaged, FormatError, ResourceError, TrajfileError, Unsafe
from trajfile.reader import Trajectory
from trajfile.report import SEVERITIES, Finding, Severity

if TYPE_CHECKING:
    from trajfile.containers.base import Container
    from trajfile.engine.plan import Plan

#: Of a folder with more entries only so many are looked at to tell whether it changed.
_MOST_ENTRIES = 100_000

Status = Literal[
    "ok", "damaged", "unsafe", "unreadable", "resources", "timeout", "died", "internal"
]


class Settings(msgspec.Struct, frozen=True):
    """How inputs are examined.

    Attributes:
        rules: The rules.
        device: As in `trajfile.analyze`.
        memory: Bytes for the buffers of one input.
        deep: Whether every committed byte is verified, beyond what the metrics read.
        cache: Whether measurements are kept, and used where an input has not changed.
        baseline: For each input (by its path) the fingerprints and values that were accepted.
        divide_above: An input of which more recorded bytes are to be read is examined in parts.
        threads: Threads of each process; 0 for its share of the cores.
    """

    rules: Rulebook
    device: str = "cpu"
    memory: int = 2**30
    deep: bool = False
    cache: bool = False
    baseline: dict[str, Accepted] = {}
    divide_above: int = 2**31
    threads: int = 0


class Accepted(msgspec.Struct, frozen=True):
    """What a baseline holds of one input.

    Attributes:
        violations: Fingerprints of violations that do not count any more.
        values: For each rule over one value, the value then.
    """

    violations: list[str] = []
    values: dict[str, float] = {}


class Outcome(msgspec.Struct, frozen=True):
    """What became of one input.

    Attributes:
        path: The input as it was named.
        status: ``ok`` if it could be examined, else how that failed.
        identity: What it held when it was examined; changes when the content does.
        container: What it is stored as, if it could be opened.
        seconds: How long it took.
        bytes_read: Recorded bytes that were read.
        verdict: The report's verdict.
        violations: The rules it broke, most severe first.
        values: For each rule over one value, the value found.
    """

    path: str
    status: Status
    identity: str = ""
    container: str = ""
    seconds: float = 0.0
    bytes_read: int = 0
    verdict: str = ""
    violations: list[Violation] = []
    values: dict[str, float] = {}

    @property
    def worst(self) -> Severity | None:
        """The severity of its worst violation that no baseline knows."""
        found = {violation.severity for violation in self.violations if not violation.known}
        return next((severity for severity in SEVERITIES if severity in found), None)


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

        if plan.bytes_to_read > settings.divide_above and len(plan.parts) > 1:
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
        outcome = _failure(path, error, settings)
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
        with open_trajectory(path) as trajectory:
            if identity_of(path) != divided.identity:
                detail = f"{path} was changed while it was examined: try again"
                return failed(path, "unreadable", detail, settings)
            machine = machine_for(settings.device)
            made = run_part(plan, plan.parts[number], trajectory.container, machine)
    except Exception as error:
        return _failure(path, error, settings)
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
    failure = next((part for part in parts if isinstance(part, Outcome)), None)
    if failure is not None:
        return failure

    def through(plan: Plan, container: Container, machine: Any, progress: Any) -> Any:
        from trajfile.engine.stream import conclude_pass

        del plan, container, progress
        return conclude_pass(divided.plan, (part for part, _ in parts), machine.device)

    try:
        outcome = _examined(path, settings, divided.identity, lambda _: divided.validation, through)
    except Exception as error:
        outcome = _failure(path, error, settings)
    spent = divided.seconds + sum(seconds for _, seconds in parts)
    return msgspec.structs.replace(outcome, seconds=spent + time.perf_counter() - started)


def _on_threads(plan: Plan, settings: Settings) -> Plan:
    return plan.on_threads(settings.threads) if settings.threads else plan


def _failure(path: str, error: Exception, settings: Settings) -> Outcome:
    status, detail = failure_of(error)
    rule = error.rule if isinstance(error, FormatError) else ""
    return failed(path, status, detail, settings, rule)


def failed(
    path: str, status: Status, detail: str, settings: Settings, broken_rule: str = ""
) -> Outcome:
    """The outcome of an input that could not be examined, whichever rule of the format it broke."""
    accepted = settings.baseline.get(path, Accepted())
    broken = [
        _against(violation(rule, status, detail=detail), accepted)
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


def identity_of(path: str) -> str:
    """What identifies the content of an input, found without opening it.

    Of a file its size and time of change; of a folder those of all that lies in it and one level
    below, where every commit of a trajectory leaves its mark.

    Args:
        path: The input.

    Returns:
        A text that changes with the content; ``missing`` if there is nothing.
    """
    if path.startswith("s3://"):
        return _identity_in_store(path)
    top = Path(path)
    try:
        found = top.stat()
        if not top.is_dir():
            return f"{found.st_size}-{found.st_mtime_ns}"
        digest = blake2b(digest_size=16)
        for entry in islice(_entries(path, depth=2), _MOST_ENTRIES):
            stat = entry.stat(follow_symlinks=False)
            digest.update(f"{entry.path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()
    except OSError:
        return "missing"


def _identity_in_store(url: str) -> str:
    from trajfile.containers.bucket import Bucket

    digest = blake2b(digest_size=16)
    found = 0
    try:
        bucket = Bucket(url)
        for entry in islice(bucket.below(bucket.prefix), _MOST_ENTRIES):
            found += 1
            digest.update(f"{entry['path']}\0{entry['size']}\0{entry['e_tag']}\n".encode())
        if bucket.prefix.suffix == ".safetensors":
            return str(bucket.size(bucket.prefix))
    except (TrajfileError, OSError):
        return "missing"
    return digest.hexdigest() if found else "missing"


def _entries(folder: str, depth: int) -> Iterator[os.DirEntry[str]]:
    for entry in sorted(os.scandir(folder), key=lambda item: item.name):
        yield entry
        if depth > 1 and entry.is_dir(follow_symlinks=False):
            yield from _entries(entry.path, depth - 1)


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

    with open_trajectory(path) as trajectory:
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
            violations=[_against(item, accepted) for item in found],
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


def _against(item: Violation, accepted: Accepted) -> Violation:
    known = item.fingerprint in accepted.violations
    return msgspec.structs.replace(item, known=True) if known else item


def _values(rules: list[Any], evidence: Evidence) -> dict[str, float]:
    values = {}
    for rule in rules:
        if rule.subject in {"summary", "series", "fact"}:
            value = numeric(value_of(rule, evidence)[0])
            if value is not None:
                values[rule.id] = value
    return values


def settings_key(settings: Settings) -> str:
    """A digest of what decides outcomes besides the inputs."""
    from trajfile.version import __version__

    deciding = msgspec.structs.replace(settings, threads=0)
    stated = msgspec.json.encode([deciding, __version__], order="deterministic")
    return blake2b(stated, digest_size=16).hexdigest()
