"""The metrics: each a pure function from measurements to a result."""

from __future__ import annotations

from trajfile.metrics.alignment import Alignment
from trajfile.metrics.base import Metric
from trajfile.metrics.elr import Elr
from trajfile.metrics.geometry import Geometry
from trajfile.metrics.gradient_noise import GradientNoise
from trajfile.metrics.imbalance import Imbalance
from trajfile.metrics.norms import Norms
from trajfile.metrics.periodicity import Periodicity
from trajfile.metrics.sharpness import Sharpness

_METRICS: tuple[type[Metric], ...] = (
    Norms,
    Alignment,
    Elr,
    Imbalance,
    Sharpness,
    Periodicity,
    GradientNoise,
    Geometry,
)

#: Every metric by its id, in the order of reports.
METRICS: dict[str, type[Metric]] = {metric.id: metric for metric in _METRICS}
