"""The metrics: each a pure function from measurements to a result."""

from __future__ import annotations

from trajfile.metrics.base import Metric
from trajfile.metrics.elr import Elr

_METRICS: tuple[type[Metric], ...] = (Elr,)

#: Every metric by its id, in the order of reports.
METRICS: dict[str, type[Metric]] = {metric.id: metric for metric in _METRICS}
