"""Periodic jumps: normalisation and weight decay that destabilise training again and again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Inner, Need
from trajfile.metrics.base import Metric, Skipped
from trajfile.metrics.decay_law import (
    LAW_SUMMARY,
    LawResiduals,
    decay_between,
    law_applies,
    laws_of,
    norms_are_held,
    recorded_squares,
)
from trajfile.metrics.jumps import (
    Jumps,
    Signs,
    cycles,
    find_jumps,
    jumps_by_norm,
    may_jump,
    moments,
    moves,
)
from trajfile.metrics.periodicity_words import jump_findings, jump_sentence
from trajfile.metrics.periods import PERIOD_SUMMARY, period_summary
from trajfile.metrics.ranges import Count, NotNegative, Positive, ProperPart, Share
from trajfile.metrics.rowwise import largests, of_tensors, results
from trajfile.metrics.scale_invariance import (
    InvarianceRule,
    Invariant,
    find_invariant,
    inner_over,
    invariance_findings,
    invariance_needs,
)
from trajfile.metrics.snapshots import PAIRED_GRADIENT, SNAPSHOTS, STEP, THETA
from trajfile.metrics.spikes import largest_within, spike_factor
from trajfile.report import MetricResult, Series, TensorResult, number, numbers, series

Float = NDArray[np.float64]
Steps = NDArray[np.int64]

_SUMMARY = (
    "periodic", "jump_steps", "jump_intervals", "jump_loss_factor", "delta", "jumps", "norm_rises",
    "method",
    *LAW_SUMMARY, *PERIOD_SUMMARY,
)  # fmt: skip

#: Fewest snapshots from which the absence of jumps is concluded.
_FEWEST_ROWS = 20


@dataclass(frozen=True)
class Periodicity(InvarianceRule, Metric):
    """Jumps, their periods, and what the norm does between them.

    Series: `cosine_distance` 1 - cos(θ_i, θ_{i+1}) between consecutive snapshots.

    Attributes:
        delta: δ of a δ-jump: 1 - cos > δ.
        refractory: Steps without a δ-jump after which another one counts as a new jump.
        fewest_jumps: Jumps from which on a run can be called periodic; three at the least.
        jump_part: Part of the steps within jumps above which the run turns all the time instead.
        cycle_part: Part of the periods in which the norm must have declined before the next jump.
        coverage: Part of all steps whose cosine is known from which on single steps are used;
            below it jumps are found from rises of the norm.
        hidden_decay: ηλ times the stride of snapshots above which a jump may pass unseen.
        law_tolerance: A median law residual above this is reported.
        law_rows: Adjacent snapshots with gradients below which there is no median.
        loss_spike: A loss of this many times the median before it is a spike,
        spike_window: over this many losses.
    """

    id: ClassVar[str] = "periodicity"
    title: ClassVar[str] = "periodic jumps"
    definition: ClassVar[str] = (
        "Over the scale-invariant tensors taken as one vector: 1 - cos(θ_t, θ_{t+1}); a δ-jump "
        "(form after arXiv 2106.15739) is a step at which it exceeds δ. δ-jumps within "
        "`refractory` steps are one jump; periods are the steps from one jump to the next, "
        "period_cv their population standard deviation over their mean. With snapshots too far "
        "apart, a jump is an unbroken rise of the norm, after a decline, by 1/(1-δ) or more, or a "
        "spike of the loss within a stride in which updates lengthen θ so, net of decay. "
        "periodic: at least three jumps, rare, the norm declining before each. Between jumps "
        "Φ = η/((1-ηλ)ρ²) grows freely, over ln(Φ_c/Φ_0)/(-2 ln(1-ηλ)) steps. "
        "law_residual_median: median of how far Φ_{t+1} is from B_tΦ_t/(1 + Φ_t²g̃_t²), "
        "B_t = η_{t+1}/(η_t a_t a_{t+1}), a = 1-ηλ, g̃ = ρ‖g‖, in logarithms and relative to the "
        "law's own terms: 0 for plain SGD with coupled decay, 1 if the law explains nothing."
    )
    reference: ClassVar[str] = "arXiv 2106.15739"
    ingredients: ClassVar[str] = (
        "params; gradients and scalar learning_rate for the law; group scale_invariant if known"
    )

    delta: ProperPart = 0.1
    refractory: Count = 10
    fewest_jumps: Count = 3
    jump_part: Share = 0.1
    cycle_part: Share = 0.8
    coverage: Share = 0.9
    hidden_decay: NotNegative = 0.5
    law_tolerance: NotNegative = 0.1
    law_rows: Count = 3
    loss_spike: Positive = 5.0
    spike_window: Count = 20

    def needs(self, header: Header) -> frozenset[Need] | Skipped:
        """Norms and turns of each tensor, and what tells which tensors are scale-invariant."""
        if not header.has("params"):
            return Skipped("no params are recorded; append params=... at each step", "params")
        return invariance_needs(header) | {
            Inner(THETA, THETA, per_tensor=True),
            Inner(THETA, STEP, per_tensor=True),
            Inner(STEP, STEP, per_tensor=True),
        }

    def compute(self, measured: Measurements) -> MetricResult:
        """Jumps and periods of the run."""
        header = measured.header
        invariant = find_invariant(measured, self)
        tensors = invariant.tensors or tuple(header.tensors["params"])
        square = inner_over(measured, THETA, THETA, tensors)
        across = inner_over(measured, THETA, STEP, tensors)
        moved = inner_over(measured, STEP, STEP, tensors)
        if square is None or across is None or moved is None:
            return self._insufficient(
                "the memory budget left no room for per-tensor values; give a larger --memory"
            )
        steps = header.timeline_steps(SNAPSHOTS)
        if len(steps) < 2:
            return self._insufficient("two snapshots are needed")
        if not (np.isfinite(square) & (square > 0)).any():
            return self._insufficient("no snapshot is finite and not zero")
        decay, loss_factor = decay_between(header, steps), self._loss_factor(header, steps)
        distances, growths = moves(*(each[None, :] for each in (square, across, moved)))
        distance, growth = distances[0], growths[0]
        signs = Signs(steps, distance, growth, growth + decay, loss_factor)
        jumps = self._find(signs)
        begun = moments(signs, jumps, self.delta)
        rate = header.learning_rate_at(steps)
        held = bool(norms_are_held(square[None, :])[0])
        unseen = self._unseen(header, steps, rate, bool(invariant.tensors))
        periodic, why = self._judge(steps, jumps, growth, held, unseen)
        recorded = None
        if invariant.tensors and law_applies(header):
            recorded = inner_over(measured, PAIRED_GRADIENT, PAIRED_GRADIENT, invariant.tensors)
        laws = laws_of(header, square[None, :], growths, distances, recorded)
        summary = dict.fromkeys(_SUMMARY) | {
            "periodic": periodic,
            "jump_steps": [first for first, _ in begun],
            "jump_intervals": [list(pair) for pair in begun],
            "jump_loss_factor": [number(f) for f in signs.loss_factor[jumps.start]],
            "delta": self.delta,
            "jumps": len(jumps.start),
            "norm_rises": len(jumps_by_norm(growth, self.delta).start),
            "method": jumps.method,
            **{name: told[0] for name, told in laws.summary(self.law_rows).items()},
            **period_summary(header, steps, jumps, cycles(jumps, growth), square),
        }
        return MetricResult(
            status="ok",
            summary=summary,
            series={"cosine_distance": series(steps[:-1], distance)},
            per_tensor=self._per_tensor(measured, invariant, tensors, steps, (decay, loss_factor)),
            findings=[
                *invariance_findings(self.id, invariant, self),
                *jump_findings(summary, why, bool(invariant.tensors), self.law_tolerance),
            ],
            definition=self.definition,
            reference=self.reference,
            notes=[
                *self._notes(header, invariant, steps, jumps, laws),
                *([f"Whether jumps recur is undetermined: {why}."] * (periodic is None)),
            ],
            sentence=jump_sentence(summary, bool(invariant.tensors)),
            salience=(0.9 if invariant.tensors else 0.6) if periodic else 0.3,
            options=self.options,
        )

    def _loss_factor(self, header: Header, steps: Steps) -> Float:
        """The largest spike of the loss within each stride; -inf where there is no loss."""
        if "loss" not in header.scalars:
            return np.full(len(steps) - 1, -np.inf)
        at, loss = header.scalars["loss"]
        return largest_within(steps, at, spike_factor(loss, self.spike_window))

    def _find(self, signs: Signs) -> Jumps:
        return find_jumps(signs, self.delta, self.refractory, self.coverage, self.loss_spike)

    def _judge(
        self, steps: Steps, jumps: Jumps, growth: Float, held: bool, unseen: str
    ) -> tuple[bool | None, str]:
        """Whether the run is periodic, and the clause that says why; `unseen` as of `_unseen`."""
        count = len(jumps.start)
        if jumps.method == "cosine" and jumps.turning > self.jump_part:
            return False, f"it turns by more than δ in {jumps.turning:.0%} of its steps"
        if count == 0:
            if len(steps) < _FEWEST_ROWS:
                return None, f"{len(steps)} snapshots are too few to tell"
            if jumps.method == "norm" and held:
                return None, "the norm is held constant and shows no jump"
            if jumps.method == "norm" and unseen:
                return None, unseen
            return False, "there is no jump"
        needed = max(self.fewest_jumps, 3)  # fewer make no two periods to compare
        if count < needed:
            return None, f"at least {needed} jumps are needed"
        enough = -math.log1p(-self.delta)  # half of what one δ-jump adds
        fallen = np.array([cycle.decline >= enough for cycle in cycles(jumps, growth)])
        if fallen.mean() < self.cycle_part:
            return None, f"the norm declines before only {fallen.mean():.0%} of the later jumps"
        return True, f"the norm declines before {int(fallen.sum())} of {count - 1} later jumps"

    def _unseen(self, header: Header, steps: Steps, rate: Float, invariant: bool) -> str:
        """Why the norms of sparse snapshots may hide a jump; empty if they show every one."""
        if not invariant:
            return "between snapshots the norm tells jumps of scale-invariant tensors alone"
        if header.optimizer.get("weight_decay") is None:
            return "the weight decay is not stated, so it may hide jumps between the snapshots"
        if header.weight_decay == 0:
            return ""  # at any learning rate the norm cannot fall back after a jump
        if not np.isfinite(rate[:-1]).all():
            return "the learning rate is unknown, so the decay may hide jumps between the snapshots"
        decay = header.weight_decay * rate[:-1] * np.diff(steps)
        too_far = decay.max() > self.hidden_decay
        return "the snapshots are too far apart to show a jump" if too_far else ""

    def _per_tensor(
        self,
        measured: Measurements,
        invariant: Invariant,
        tensors: tuple[str, ...],
        steps: Steps,
        shared: tuple[Float, Float],
    ) -> dict[str, TensorResult]:
        """Each tensor's own jumps, found the same way, and how well the law holds for it."""
        names, squares = of_tensors(measured, THETA, THETA, tensors)
        across = of_tensors(measured, THETA, STEP, names)[1]
        moved = of_tensors(measured, STEP, STEP, names)[1]
        distance, growth = moves(squares, across, moved)
        begun = self._begun(steps, distance, growth, *shared)
        recorded = recorded_squares(measured, names) if invariant.tensors else None
        laws = laws_of(measured.header, squares, growth, distance, recorded)
        told = results(
            names,
            {
                "jumps": [len(pairs) for pairs in begun],
                "jump_steps": [[first for first, _ in pairs] for pairs in begun],
                "cosine_distance_max": numbers(largests(distance)),
                **laws.summary(self.law_rows),
            },
        )
        for name in names if invariant.tensors else ():
            told[name].summary.update(invariant.summary(name))
        return told

    def _begun(
        self, steps: Steps, distance: Float, growth: Float, decay: Float, loss_factor: Float
    ) -> list[list[tuple[int, int]]]:
        """Within which steps the jumps of each of some vectors begin."""
        kicked = growth + decay
        showing = may_jump(
            *(steps, distance, growth, kicked, loss_factor),
            delta=self.delta,
            cover=self.coverage,
            spike=self.loss_spike,
        )
        begun: list[list[tuple[int, int]]] = [[] for _ in distance]
        for k in np.flatnonzero(showing).tolist():
            signs = Signs(steps, distance[k], growth[k], kicked[k], loss_factor)
            begun[k] = moments(signs, self._find(signs), self.delta)
        return begun

    def _notes(
        self, header: Header, invariant: Invariant, steps: Steps, jumps: Jumps, laws: LawResiduals
    ) -> list[str]:
        notes = [invariant.note]
        if not invariant.tensors:
            notes.append(
                "Jumps are looked for over all tensors taken together"
                + (
                    "."
                    if invariant.evidence
                    else "; declare groups={'scale_invariant': [...]} to look at those that matter."
                )
            )
        if jumps.method == "norm":
            notes.append(
                f"Snapshots are up to {int(np.diff(steps).max())} steps apart, too far for the "
                "cosine of single steps: jumps are found from rises of the norm, from spikes of "
                "the loss together with kicks that the decay of the stride hides, and from single "
                "steps where a burst holds them; jump_intervals says within which steps."
            )
        else:
            notes.append(f"δ-jumps within {self.refractory} steps of each other are one jump.")
        if not laws.norm.counts[0] and header.optimizer.get("name") and not header.is_plain_sgd:
            notes.append("The law of the norm holds for plain SGD with coupled weight decay only.")
        return notes

    def _insufficient(self, reason: str) -> MetricResult:
        """A result that says why there is none."""
        return MetricResult(
            status="insufficient",
            reason=reason,
            summary=dict.fromkeys(_SUMMARY) | {"delta": self.delta},
            series={"cosine_distance": Series([], [])},
            definition=self.definition,
            reference=self.reference,
            options=self.options,
        )
