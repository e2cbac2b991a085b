"""Which of three regimes a run of scale-invariant tensors ends in.

Convergence: loss and effective gradient norm keep falling. Chaotic equilibrium: both are flat,
the loss well below its random level. Divergence: the loss is at or above that level. The names
are those of arXiv 2209.03695; the thresholds are this tool's own. Both curves are averaged over
blocks of rows, so that no single mini-batch decides, and cut where either changes its level or
its slope; the word rests on the last stretch that is long enough, and reaches back over earlier
stretches as long as it holds from there on, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajfile.metrics.blow_ups import BlowUps, find_blow_ups
from trajfile.metrics.course import Course, Stretch, course
from trajfile.metrics.intervals import mean_interval
from trajfile.metrics.ranges import Factor, NotNegative, Positive, Several, Share
from trajfile.metrics.robust import trimmed_mean

Float = NDArray[np.float64]
Steps = NDArray[np.int64]
Word = Literal["convergence", "chaotic_equilibrium", "divergence", "undetermined"]

#: Rows that a block holds at least, where there are enough.
_BLOCK_ROWS = 4


@dataclass(frozen=True)
class RegimeRule:
    """Thresholds that turn two curves into a word.

    Attributes:
        random_loss: Loss of a network that knows nothing; by default the median of the first
            three recorded, if the recording covers the run's start.
        window_blocks: Fewest blocks of rows on which the word rests; the run is cut into two to
            six times as many, of four rows each or more where there are enough.
        block_scatter: Relative scatter of a block to reckon with at least in looking for changes.
        significance: Standard deviations below which a fall is chance (one-sided 5%): of the
            Mann-Kendall statistic, and of the trend given how far its scatter is correlated.
        falling: A quantity falls if it loses at least this part of itself over the stretch.
        flat_change: A quantity is flat if its trend over the stretch is within this part.
        flat_spread: And if its largest block is within this factor of its smallest.
        well_below: A loss below this part of the random level is well below it.
        at_level: A loss of at least this part of the random level is at it.
        converged: A loss that stays below this part of the random level is at its floor.
        least_turn: Radians the tensors must have turned in all before a loss at its random level
            counts as divergence and not as standing still.
    """

    random_loss: Positive | None = None
    window_blocks: Several = 10
    block_scatter: NotNegative = 0.05
    significance: NotNegative = 1.645
    falling: Share = 0.1
    flat_change: NotNegative = 0.25
    flat_spread: Factor = 2.0
    well_below: Share = 0.9
    at_level: Share = 0.95
    converged: Share = 1e-3
    least_turn: NotNegative = 0.1


@dataclass(frozen=True)
class Regime:
    """A word and what it rests on.

    Attributes:
        word: The regime.
        since_step: First step of it; None if undetermined.
        since_interval: First and last step at which it may as well have begun: 95 %, and never
            narrower than a block.
        reason: One clause saying why.
        evidence: The figures.
    """

    word: Word
    since_step: int | None
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    since_interval: list[int] | None = None


def classify(
    steps: Steps,
    loss: Float,
    gradient_norm: Float | None,
    *,
    level: float | None,
    turned: float,
    rule: RegimeRule,
) -> Regime:
    """Name the regime in which a run ends.

    Args:
        steps: Steps of the rows, int64, shape (n,).
        loss: Loss at each, NaN where it was not recorded.
        gradient_norm: Effective gradient norm ρ‖g‖ at each; None if gradients were not recorded.
        level: Random level of the loss, as from `random_level`; None if unknown.
        turned: Radians the tensors turned in all, from snapshot to snapshot.
        rule: The thresholds.

    Returns:
        The regime; ``undetermined`` with its reason where the curves cannot tell.
    """
    usable = np.isfinite(loss)
    if gradient_norm is not None:
        blown = np.flatnonzero(~np.isfinite(gradient_norm[-1:]))
        if len(blown):
            return _undetermined("the gradients or parameters are not finite at the end")
        usable &= np.isfinite(gradient_norm)
    steps, loss = steps[usable], loss[usable]
    fewest = 2 * rule.window_blocks
    if len(steps) < fewest:
        return _undetermined(
            f"{len(steps)} steps have what it takes (loss, gradients), {fewest} are needed"
        )
    if loss.min() < 0:
        return _undetermined("the loss is negative at times, and has no level to compare with")
    count = min(max(len(steps) // _BLOCK_ROWS, fewest), 3 * fewest)
    parts = np.array_split(np.arange(len(steps)), count)
    scatter = rule.block_scatter
    losses = course(np.array([trimmed_mean(loss[part]) for part in parts]), scatter)
    slopes = None
    if gradient_norm is not None:
        norms = gradient_norm[usable]
        slopes = course(np.array([norms[part].mean() for part in parts]), scatter)
    high, floor = (rule.well_below * level, rule.converged * level) if level else (np.inf, 0.0)
    spikes = find_blow_ups(steps, loss, parts, high=high, floor=floor)
    judge = _Judge(losses, slopes, level, turned, rule, spikes)
    found, block, low, high = judge.regime()
    rows = slice(int(parts[judge.window][0]), None)
    evidence = _evidence(judge, loss[rows], None if slopes is None else norms[rows])
    evidence |= {
        "random_loss": level,
        "window_first_step": int(steps[rows.start]),
        "change_steps": [int(steps[parts[change][0]]) for change in judge.edges[1:]],
        "blocks": count,
        "turned_radians": turned,
    }
    if found.word == "undetermined":
        return _undetermined(found.reason, evidence)
    # A change within a block shows at the start of the next.
    interval = [int(steps[parts[max(low - 1, 0)][0]]), int(steps[parts[high][-1]])]
    if block == 0:
        interval = [int(steps[0]), int(steps[0])]
    return Regime(found.word, int(steps[parts[block][0]]), found.reason, evidence, interval)


class _Word(NamedTuple):
    """A word, the clause that says why, and the block of the stretch from which it holds."""

    word: Word
    reason: str
    offset: int = 0


class _Judge:
    """Judges the last stretch of a run, and how far back the word reaches.

    Attributes:
        edges: Blocks at which a stretch begins, 0 first.
        window: The block from which on the curves are judged.
    """

    def __init__(
        self,
        losses: Course,
        slopes: Course | None,
        level: float | None,
        turned: float,
        rule: RegimeRule,
        spikes: BlowUps,
    ) -> None:
        self.losses, self.slopes = losses, slopes
        self.level, self.turned, self.rule, self.spikes = level, turned, rule, spikes
        self.changes = {c.index: c for c in (*losses.changes, *(slopes.changes if slopes else ()))}
        self.edges = sorted({0, *self.changes})
        count = len(losses.values)
        last = max(edge for edge in self.edges if edge <= count - rule.window_blocks)
        # What happened within the first few blocks is too short for a stretch of its own.
        self.window = max(last, count // 2)

    def regime(self) -> tuple[_Word, int, int, int]:
        """The word, the block it begins with, and the first and last it may as well begin with."""
        earlier = [edge for edge in self.edges if edge < self.window][::-1]
        found = self.word(self.window)
        if found.word == "undetermined" and self._drifts_down(self.window):
            # A fall too slow for the last stretch may be plain over the last two or three.
            for edge in earlier:
                if self.word(edge).word == "convergence":
                    self.window, found = edge, self.word(edge)
                    break
        if found.word == "undetermined":
            late = self.edges[-1] > len(self.losses.values) - self.rule.window_blocks
            clause = "; the curves changed course too late to judge what follows" * late
            return _Word("undetermined", found.reason + clause), 0, 0, 0
        begin = self.window
        for edge in earlier:
            if self.word(edge).word != found.word:
                break
            begin = min(edge, begin)
        offset = self.word(begin).offset
        change = self.changes.get(begin)
        if change is not None and not offset:
            return found, begin, change.low, change.high
        begin = begin + offset if offset else self._reach(found.word, begin)
        return found, begin, begin, begin

    def _reach(self, word: Word, begin: int) -> int:
        """How far back a word reaches between two changes, or before the first, by its level."""
        earliest = max(edge for edge in self.edges if edge <= begin)
        judged = [self.losses]
        if self.slopes is not None and word != "divergence":
            judged.append(self.slopes)
        before = [part.values[earliest : begin + 1] for part in judged]
        if word == "convergence":
            return earliest + max(int(np.argmax(values)) for values in before)
        near = np.ones(begin + 1 - earliest, np.bool_)
        for part, values in zip(judged, before, strict=True):
            ratio = values / part.since(begin, self.rule.window_blocks).level
            near &= (ratio <= self.rule.flat_spread) & (ratio >= 1 / self.rule.flat_spread)
        far = np.flatnonzero(~near)
        return earliest + (int(far[-1]) + 1 if len(far) else 0)

    def word(self, block: int) -> _Word:
        """What the curves are called from a block on."""
        rule, level = self.rule, self.level
        loss = self.losses.since(block, rule.window_blocks)
        if level is not None and loss.level >= rule.at_level * level:
            # A slow start is also at the random level; even a tenth of a fall tells it apart.
            falling = loss.falls(rule.significance, 0.1 * rule.falling)
            offset = loss.for_good(loss.pieces >= rule.well_below * level)
            if offset is not None and not falling and self.turned >= rule.least_turn:
                return _Word("divergence", "the loss is at or above its random level", offset)
        if self.slopes is None:
            return _Word("undetermined", "without gradients only divergence could be told")
        slope = self.slopes.since(block, rule.window_blocks)
        down = [part.falls(rule.significance, rule.falling) for part in (loss, slope)]
        spikes = self.spikes.clause(block)
        if all(down):
            if spikes:
                return _Word("undetermined", spikes)
            return _Word("convergence", "loss and effective gradient norm fall")
        if level is None:
            return _Word(
                "undetermined",
                "the recording starts too late to know the random level of the loss",
            )
        offset = loss.for_good(loss.pieces <= rule.converged * level)
        if offset is not None:
            if recurring := self.spikes.clause(block + offset):
                return _Word("undetermined", recurring)
            return _Word("convergence", "the loss has reached its floor", offset)
        steady = all(part.flat(rule.flat_change, rule.flat_spread) for part in (loss, slope))
        if (
            steady
            and not down[0]
            and not self._drifts_down(block)
            and loss.level <= rule.well_below * level
        ):
            return _Word("chaotic_equilibrium", "loss and effective gradient norm are flat")
        return _Word(
            "undetermined",
            spikes or "loss and effective gradient norm neither both fall nor both stay flat",
        )

    def _drifts_down(self, block: int) -> bool:
        """Whether both curves fall from a block on, by a tenth of what counts as falling."""
        if self.slopes is None:
            return False
        rule = self.rule
        ends = [part.since(block, rule.window_blocks) for part in (self.losses, self.slopes)]
        return all(end.falls(rule.significance, 0.1 * rule.falling) for end in ends)


def _evidence(judge: _Judge, loss: Float, norms: Float | None) -> dict[str, Any]:
    """The figures of the stretch that was judged."""
    found = _figures("loss", judge.losses.since(judge.window, judge.rule.window_blocks), loss)
    if judge.slopes is not None and norms is not None:
        stretch = judge.slopes.since(judge.window, judge.rule.window_blocks)
        found |= _figures("effective_gradient_norm", stretch, norms)
    return found


def _figures(name: str, stretch: Stretch, rows: Float) -> dict[str, Any]:
    within = mean_interval(rows)
    return {
        name: stretch.level,
        f"{name}_mean": float(rows.mean()),
        f"{name}_mean_interval": within.pair,
        f"{name}_effective_windows": within.windows,
        f"{name}_change_factor": stretch.factor,
        f"{name}_change_factor_interval": stretch.factor_interval,
        f"{name}_mann_kendall_z": stretch.z,
    }


def _undetermined(reason: str, evidence: dict[str, Any] | None = None) -> Regime:
    return Regime("undetermined", None, reason, evidence or {})
