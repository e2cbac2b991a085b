"""The metrics: each a pure function from measurements to a result."""

from __future__ import annotations

from trajfile.metrics.alignment import Alignment
from trajfile.metrics.base import Metric
from trajfile.metrics.elr import Elr
from trajfile.metrics.norms import Norms
from trajfile.metrics.sharpness import Sharpness

_METRICS: tuple[type[Metric], ...] = (Norms, Alignment, Elr, Sharpness)

#: Every metric by its id, in the order of reports.
METRICS: dict[str, type[Metric]] = {metric.id: metric for metric in _METRICS}
