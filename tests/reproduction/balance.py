"""What the studies of arXiv 2007.09286 share: how they record, and what they read of a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.reproduction.study import Table, analyzed, of
from trajfile.report import Report

SEEDS = (0, 1, 2)


def recorded(step: int, every: int) -> bool:
    """Each of the first steps, in which the loss falls, then pairs of adjacent ones."""
    return step < 50 or step % every < 2


def about(decay: float, layers: list[str], source: str) -> dict[str, Any]:
    """What the writer is told."""
    return {
        "optimizer": {"name": "SGD", "weight_decay": decay, "momentum": 0.0},
        "groups": {"layers": layers},
        "gradient": {"stage": "raw", "source": source},
    }


def asked(path: Any, rows: Iterator[dict[str, Any]], told: dict[str, Any]) -> Report:
    """The report on imbalance, with the exact λ_max that each row carries."""
    options = {"sharpness.recorded": "lambda_max"}
    return analyzed(path, rows, told, ["imbalance", "sharpness"], options)


@dataclass(frozen=True)
class Balance:
    """What a study needs of a report: imbalance and exact sharpness, and when.

    Attributes:
        boundary: Step from which the loss is at its floor, as the tool finds it.
        imbalance: At the start, at the boundary (failing one, the start) and at the end.
        sharpness: Likewise.
        rates: Slope of ln|D| per step before and after the boundary, as the tool measures it.
        late: ln of D at the end over D half-way, per step: a rate that asks for no boundary.
        phase: Whether the tool calls that a regularisation phase.
        law: The median residual of the law of D.
    """

    boundary: int | None
    imbalance: tuple[float, float, float]
    sharpness: tuple[float, float, float]
    rates: tuple[float | None, float | None]
    late: float
    phase: bool | None
    law: float | None

    @classmethod
    def told_by(cls, report: Report) -> Balance:
        """Read a report."""
        summary = report.metrics["imbalance"].summary
        boundary = summary["phase_boundary_step"]
        steps, imbalance = of(report.metrics["imbalance"], "max_abs")
        half = len(steps) // 2

        def three(steps: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
            at = int(np.searchsorted(steps, boundary or steps[0]))
            return values[0], values[at], values[-1]

        return cls(
            boundary,
            three(steps, imbalance),
            three(*of(report.metrics["sharpness"], "recorded")),
            (summary["decay_rate_before"], summary["decay_rate"]),
            float(np.log(imbalance[-1] / imbalance[half]) / (steps[-1] - steps[half])),
            summary["regularisation_phase"],
            summary["law_residual"],
        )


def table(name: str, expected: str) -> Table:
    """The table of a study: one row a way to regularise, over the seeds."""
    return Table(
        name,
        *("regularised by", "η", "phase boundary", "regularisation phases"),
        *("D at start", "D at boundary", "D at end", "rate before", "rate after", expected),
        *("λ_max at boundary", "λ_max at end"),
    )


def add(into: Table, name: str, rate: float, runs: Sequence[Balance], expected: float) -> None:
    """One row."""
    into.add(
        *(name, rate, [run.boundary for run in runs]),
        f"{sum(run.phase is True for run in runs)} of {len(runs)}",
        *([run.imbalance[at] for run in runs] for at in range(3)),
        *([run.rates[at] for run in runs] for at in range(2)),
        expected,
        *([run.sharpness[at] for run in runs] for at in (1, 2)),
    )
