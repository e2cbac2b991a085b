"""Norms of what was recorded, and the first value that is not finite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Inner, Need, Row, Timeline
from trajfile.metrics.base import Metric, Skipped
from trajfile.metrics.intervals import (
    effective_windows,
    stated_means,
    stated_median,
    stated_medians,
)
from trajfile.metrics.late import late_note
from trajfile.metrics.non_finite import (
    find_non_finite,
    listed,
    non_finite_findings,
    non_finite_sentence,
)
from trajfile.metrics.ranges import Count, Positive
from trajfile.metrics.robust import finite, first, largest, last
from trajfile.metrics.rowwise import firsts, largests, lasts, of_tensors, results, rows
from trajfile.metrics.snapshots import STEP, THETA, strides
from trajfile.metrics.spikes import spike_factor
from trajfile.report import Finding, MetricResult, Series, TensorResult, number, numbers, series

Float = NDArray[np.float64]

_STREAMS = ("params", "gradients", "updates")


@dataclass(frozen=True)
class Norms(Metric):
    """Euclidean norms by stream, relative updates, non-finite values, tensors that never move.

    Series: `params` ‖θ_k‖, `gradients` ‖g_k‖, `updates` ‖U_k‖, `relative_update`
    ‖θ_{k+1} - θ_k‖/‖θ_k‖ from each recorded snapshot to the next.

    Attributes:
        exploding_update: A single step with a relative update of at least this, over all
            parameters, is reported.
        gradient_spike: A gradient norm of at least this many times the median of the rows before
            it is reported; rows on end are one spike.
        spike_window: How many rows before it.
        fewest_updates: Displacements below which no median or mean of them is given.
    """

    id: ClassVar[str] = "norms"
    title: ClassVar[str] = "norms and non-finite values"
    definition: ClassVar[str] = (
        "‖θ_k‖, ‖g_k‖ and ‖U_k‖, Euclidean over all tensors, of the recorded parameters, "
        "gradients and updates; relative update ‖θ_{k+1} - θ_k‖/‖θ_k‖ between consecutive "
        "recorded snapshots; non_finite_step, the first step at which a recorded value is NaN or "
        "infinite; tensors that never move. relative_update_median_interval: 95 % interval of the "
        "median from its order statistics, for effective_windows independent ones."
    )
    reference: ClassVar[str] = "standard"
    ingredients: ClassVar[str] = "any of params, gradients, updates"

    exploding_update: Positive = 1.0
    gradient_spike: Positive = 100.0
    spike_window: Count = 50
    fewest_updates: Count = 3

    def needs(self, header: Header) -> frozenset[Need] | Skipped:
        """The squared norm of each row of each stream, and of each step between snapshots."""
        present = [stream for stream in _STREAMS if header.has(stream)]
        if not present:
            return Skipped(
                "no params, gradients or updates are recorded; append params=... at each step",
                "params",
            )
        rows = [_row(stream) for stream in present]
        if "params" in present:
            rows.append(STEP)
        return frozenset(Inner(row, row, per_tensor=True) for row in rows)

    def compute(self, measured: Measurements) -> MetricResult:
        """Norms of the run."""
        header = measured.header
        present = [stream for stream in _STREAMS if header.has(stream)]
        steps = {s: header.timeline_steps(_row(s).timeline) for s in _STREAMS}
        squares = {s: measured.inner(_row(s), _row(s)) for s in present}
        curves = {s: Series([], []) for s in (*_STREAMS, "relative_update")}
        curves |= {s: series(steps[s], np.sqrt(squares[s])) for s in present}
        moved = relative = np.empty(0)
        if "params" in present:
            moved = measured.inner(STEP, STEP)
            relative = _relative(squares["params"], moved)
            curves["relative_update"] = series(steps["params"][:-1], relative)
        per_tensor = _per_tensor(measured, present, self.fewest_updates)
        bad = find_non_finite(measured, [_row(stream) for stream in present])
        findings = [
            *non_finite_findings(bad),
            *self._dead(measured, per_tensor),
            *self._exploding(steps["params"], relative),
            *self._spikes(steps["gradients"], squares.get("gradients")),
        ]
        summary: dict[str, Any] = {"non_finite_step": bad[0].step if bad else None}
        for stream in present:
            norms = np.sqrt(squares[stream])
            summary |= {
                f"{stream}_first": number(first(norms)),
                f"{stream}_last": number(last(norms)),
            }
        windows = effective_windows(relative)
        summary |= stated_median("relative_update_median", relative, self.fewest_updates)
        summary |= {
            "relative_update_max": number(largest(relative)),
            "effective_windows": number(windows),
        }
        return MetricResult(
            status="ok",
            summary=summary,
            series=curves,
            per_tensor=per_tensor,
            findings=findings,
            definition=self.definition,
            reference=self.reference,
            notes=_notes(measured, steps["params"], relative, windows, self.fewest_updates),
            sentence=non_finite_sentence(bad) or _sentence(moved, summary),
            salience=1.0 if bad else 0.1,
            options=self.options,
        )

    def _dead(
        self, measured: Measurements, per_tensor: Mapping[str, TensorResult]
    ) -> list[Finding]:
        """Tensors that no two recorded snapshots differ in."""
        params = measured.header.tensors.get("params", {})
        told = {name: result.summary for name, result in per_tensor.items()}
        dead = [name for name, values in told.items() if values.get("moved") is False]
        if not dead:
            return []
        pushed = [name for name in dead if told[name].get("gradient_norm_mean")]
        why = (
            f"; {listed(pushed)} did have gradients: frozen, or their updates are lost to rounding"
            if pushed
            else ""
        )
        of = len(params)
        return [
            Finding(
                "norms.dead_tensor",
                "warn",
                f"{len(dead)} of {of} tensors never moved: {listed(dead)}{why}.",
                {"tensors": dead, "with_gradients": pushed},
            )
        ]

    def _exploding(self, steps: NDArray[np.int64], relative: Float) -> list[Finding]:
        """Single steps that move the parameters by as much as their own norm."""
        single = (strides(steps)[:-1] == 1) & np.isfinite(relative)
        index = np.flatnonzero(single & (np.where(single, relative, 0.0) >= self.exploding_update))
        if not len(index):
            return []
        worst = int(index[np.argmax(relative[index])])
        return [
            Finding(
                "norms.exploding_update",
                "warn",
                f"In {_count(len(index), 'single step')} the parameters moved by at least "
                f"{self.exploding_update:.0%} of their norm, first at step {steps[index[0]]}, "
                f"most at step {steps[worst]} ({relative[worst]:.0%}).",
                {
                    "first_step": int(steps[index[0]]),
                    "worst_step": int(steps[worst]),
                    "worst": float(relative[worst]),
                    "count": len(index),
                },
            )
        ]

    def _spikes(self, steps: NDArray[np.int64], squares: Float | None) -> list[Finding]:
        """Gradients far beyond those just before."""
        if squares is None:
            return []
        norms = np.sqrt(squares)
        factor = spike_factor(norms, self.spike_window)
        spikes = np.flatnonzero(factor >= self.gradient_spike)
        if not len(spikes):
            return []
        worst = int(spikes[np.argmax(factor[spikes])])
        count = int((np.diff(spikes, prepend=-2) > 1).sum())
        return [
            Finding(
                "norms.gradient_spike",
                "warn",
                f"{_count(count, 'gradient spike')} of at least {self.gradient_spike:g} times "
                f"the median norm of the {self.spike_window} rows before, first at step "
                f"{steps[spikes[0]]}, most at step {steps[worst]} ({factor[worst]:.2g} times).",
                {
                    "first_step": int(steps[spikes[0]]),
                    "worst_step": int(steps[worst]),
                    "worst_factor": float(factor[worst]),
                    "count": count,
                },
            )
        ]


def _row(stream: str) -> Row:
    return THETA if stream == "params" else Row(stream, Timeline((stream,)))


def _relative(square: Float, moved: Float) -> Float:
    """‖θ_{k+1} - θ_k‖/‖θ_k‖ for each snapshot but the last, shape (..., snapshots - 1)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.sqrt(moved[..., :-1]) / np.sqrt(square[..., :-1]))


def _per_tensor(measured: Measurements, present: list[str], fewest: int) -> dict[str, TensorResult]:
    """The summaries of single tensors; empty if per-tensor values were not kept."""
    told: dict[str, TensorResult] = {}
    if "params" in present:
        names, squares = of_tensors(measured, THETA, THETA)
        moved = of_tensors(measured, STEP, STEP, names)[1]
        relative = _relative(squares, moved)
        columns = {
            "norm_first": numbers(np.sqrt(firsts(squares))),
            "norm": numbers(np.sqrt(lasts(squares))),
            **stated_medians("relative_update_median", rows(relative), fewest),
            "relative_update_max": numbers(largests(relative)),
            "moved": _moved(measured.header, names, squares, moved),
        }
        told = results(names, columns)
    for stream, label in (("gradients", "gradient_norm_mean"), ("updates", "update_norm_mean")):
        if stream in present:
            names, squares = of_tensors(measured, _row(stream), _row(stream))
            for name, more in results(names, stated_means(label, rows(np.sqrt(squares)))).items():
                told.setdefault(name, TensorResult({})).summary.update(more.summary)
    return told


def _moved(header: Header, names: Sequence[str], squares: Float, moved: Float) -> list[bool | None]:
    """Whether each tensor ever did; None where no two snapshots tell, or it is empty."""
    known = np.isfinite(squares[:, :-1]) & np.isfinite(squares[:, 1:])
    ever = np.asarray(((moved[:, :-1] > 0) & known).any(axis=1))
    sizes = [header.tensors["params"][name].size for name in names]
    told = known.any(axis=1) & (np.array(sizes) > 0)
    return [bool(yes) if there else None for yes, there in zip(ever, told, strict=True)]


def _notes(
    measured: Measurements,
    steps: NDArray[np.int64],
    relative: Float,
    windows: float,
    fewest: int,
) -> list[str]:
    notes = late_note(
        measured.header, "norms of the whole count them from there on and may jump where they join."
    )
    known = len(finite(relative))
    if known >= fewest:
        notes.append(
            f"The median relative update has a 95 % interval for {windows:.0f} "
            f"effective windows of {known} displacements; below two it is their whole range."
        )
    elif len(steps) > 1:
        notes.append(
            f"The median relative update wants {fewest} displacements, and there are {known}."
        )
    if len(steps) > 1 and np.nanmax(strides(steps)) > 1:
        notes.append(
            "Snapshots are more than one step apart in places; the relative update there is over "
            "the whole stride."
        )
    stage = measured.header.gradient.get("stage")
    if measured.header.has("gradients") and stage in {"scaled", "clipped", "replayed"}:
        notes.append(f"Gradient norms are those of {stage} gradients.")
    if not measured.per_tensor_kept:
        notes.append("The memory budget left no room for the norms of single tensors.")
    return notes


def _sentence(moved: Float, summary: dict[str, Any]) -> str | None:
    known = finite(moved)
    if len(known) and not known.any():
        return "The parameters never moved."
    start, end = summary.get("params_first"), summary.get("params_last")
    if start is None or end is None or summary["relative_update_median"] is None:
        return None
    return (
        f"The parameter norm went from {start:.3g} to {end:.3g}, by "
        f"{summary['relative_update_median']:.2g} of itself from snapshot to snapshot (median)."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")
