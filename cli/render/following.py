"""What to run next, given what a report says."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trajfile.report import Report

#: Findings that happened at a step, the gravest first, and where their evidence names it.
_EVENTS: dict[str, str] = {
    "norms.non_finite": "step",
    "periodicity.jumps": "first_step",
    "norms.gradient_spike": "worst_step",
    "norms.exploding_update": "worst_step",
}

#: Where a metric has its own landmark, the steps around it are worth a closer look.
_LANDMARKS: dict[str, str] = {
    "imbalance": "phase_boundary_step",
    "elr": "regime_since_step",
}

#: A reason that names one of these can be removed by recording more.
_RECORDED = ("params", "gradient", "updates", "loss", "learning_rate", "scalar")

#: A metric this salient is what the report is about.
_WORTH_FOLLOWING = 0.4


def following(report: Report) -> tuple[str, str]:
    """The next command, and what it shows.

    Args:
        report: A report of `trajfile.analyze`.

    Returns:
        A command line that exists and can be pasted, and a few words on what it gives.
    """
    run = shlex.quote(report.source.path)
    if (event := report.run.around) is not None:
        narrowed = f"trajfile analyze {run} --around {event.step}"
        return f"{narrowed} --json -", "every tensor and number around it"
    if (step := _event(report)) is not None:
        return f"trajfile analyze {run} --around {step}", "what moved first"
    told = {
        metric_id: result
        for metric_id, result in report.metrics.items()
        if result.status == "ok" and result.sentence
    }
    if told:
        metric_id = max(told, key=lambda key: told[key].salience)
        if told[metric_id].salience >= _WORTH_FOLLOWING:
            if steps := _around(report, metric_id):
                return f"trajfile analyze {run} --steps {steps}", "those steps alone"
            return f"trajfile analyze {run} --metrics {metric_id} --json -", "every number of it"
    for metric_id, result in report.metrics.items():
        if result.status == "skipped" and any(name in (result.reason or "") for name in _RECORDED):
            return f"trajfile metrics {metric_id}", "what it is and what to record for it"
    return f"trajfile analyze {run} --json -", "every number of the report"


def _event(report: Report) -> int | None:
    """The step of the gravest event that snapshots show, if there was any."""
    from trajfile.around import near

    streams = report.source.streams
    shown = streams.get("params") or next(iter(streams.values()), None)
    if shown is None or shown.first_step is None or shown.last_step is None:
        return None
    for step in _steps_of_events(report):
        if near(step, shown.first_step, shown.last_step, shown.rows):
            return step
    return None


def _steps_of_events(report: Report) -> Iterator[int]:
    for event, name in _EVENTS.items():
        for finding in report.findings:
            step: Any = finding.evidence.get(name)
            if finding.id == event and isinstance(step, int):
                yield step


def _around(report: Report, metric_id: str) -> str:
    """Steps from somewhat before a metric's landmark on, if that narrows the run down."""
    landmark = report.metrics[metric_id].summary.get(_LANDMARKS.get(metric_id, ""))
    extents = [s for s in report.source.streams.values() if s.first_step is not None]
    if not isinstance(landmark, int) or not extents:
        return ""
    first = min(s.first_step for s in extents if s.first_step is not None)
    last = max(s.last_step for s in extents if s.last_step is not None)
    before = landmark - (last - first) // 20
    if before <= first + (last - first) // 20:
        return ""
    return f"{before}:{min(landmark + (last - first) // 20, last) + 1}"
