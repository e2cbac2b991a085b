"""The tensors that stand out from the others, and why."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Literal

from .text import number

if TYPE_CHECKING:
    from trajfile.report import MetricResult


@dataclass(frozen=True)
class Mark:
    """One way to stand out.

    Attributes:
        metric: The metric whose per-tensor summary holds it.
        name: The summary's name.
        label: What it is called.
        side: ``high`` or ``either``: above the others, or also below them.
            ``false``: the value itself says so. ``negative``: below zero where most are not.
        factor: How many times the median of all tensors it must be beyond.
    """

    metric: str
    name: str
    label: str
    side: Literal["high", "either", "false", "negative"]
    factor: float = 3.0


@dataclass(frozen=True)
class Standout:
    """A tensor and why it stands out; a higher score is farther out."""

    tensor: str
    why: str
    score: float


MARKS: tuple[Mark, ...] = (
    Mark("norms", "moved", "never moved", "false"),
    Mark("norms", "relative_update_median", "relative update", "either"),
    # A small tensor's gradient is small by itself; only a large one says something.
    Mark("norms", "gradient_norm_mean", "gradient norm", "high", 10.0),
    Mark("alignment", "cosine_mean", "mean cosine", "negative"),
    Mark("elr", "angular_update", "rotation a step", "either"),
)

#: The score of what a value says by itself, beside scores that are decades from the median.
_BY_ITSELF = 10.0

#: Among fewer tensors than this, none can be said to differ from the others.
_FEWEST = 3


def standouts(metrics: Mapping[str, MetricResult]) -> list[Standout]:
    """Tensors that stand out, the farthest first.

    Args:
        metrics: Results by metric id.

    Returns:
        One entry a tensor, with its two strongest reasons.
    """
    found: dict[str, list[Standout]] = {}
    for mark in MARKS:
        result = metrics.get(mark.metric)
        if result is None or result.status != "ok":
            continue
        values = {
            tensor: entry.summary[mark.name]
            for tensor, entry in result.per_tensor.items()
            if entry.summary.get(mark.name) is not None
        }
        for standout in _beyond(mark, values):
            found.setdefault(standout.tensor, []).append(standout)
    merged = []
    for tensor, reasons in found.items():
        reasons.sort(key=lambda reason: -reason.score)
        why = "; ".join(reason.why for reason in reasons[:2])
        merged.append(Standout(tensor, why, reasons[0].score))
    return sorted(merged, key=lambda standout: -standout.score)


def _beyond(mark: Mark, values: Mapping[str, float | bool]) -> Iterable[Standout]:
    if mark.side == "false":
        for tensor, value in values.items():
            if value is False:
                yield Standout(tensor, mark.label, _BY_ITSELF)
        return
    if len(values) < _FEWEST:
        return
    middle = median(values.values())
    if middle <= 0:
        return
    for tensor, value in values.items():
        if mark.side == "negative":
            if value < 0:
                why = f"{mark.label} {number(float(value))}, the median is {number(middle)}"
                yield Standout(tensor, why, 1.0 + abs(value) / middle)
            continue
        if value <= 0:
            continue  # a tensor that never moves is marked as such, by name
        ratio = value / middle
        if ratio >= mark.factor or (ratio <= 1 / mark.factor and mark.side == "either"):
            times = f"{number(ratio, 2)}×" if ratio > 1 else f"1/{number(1 / ratio, 2)} of"
            why = f"{mark.label} {number(float(value))}, {times} the median"
            yield Standout(tensor, why, abs(math.log10(ratio)))
