"""What to run next, given what a report says."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trajfile.report import Report

#: Where a metric has its own landmark, the steps around it are worth a closer look.
_LANDMARKS: dict[str, str] = {
    "norms": "non_finite_step",
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
