"""Which of three regimes a run of scale-invariant tensors ends in.

Convergence: loss and effective gradient norm keep falling. Chaotic equilibrium: both are flat,
the loss well below its random level. Divergence: the loss is at or above that level. The names
are those of arXiv 2209.03695; the thresholds are this tool's own. Values are averaged over blocks
of rows first, so that no single mini-batch decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trajfile.metrics.robust import Trend, trend, trimmed_mean

Float = NDArray[np.float64]
Steps = NDArray[np.int64]
Word = Literal["convergence", "chaotic_equilibrium", "divergence", "undetermined"]

_TINY = float(np.finfo(np.float64).tiny)

#: A first loss later than this step, and than this part of the run, says nothing of its start.
_START_STEP = 10
_START_PART = 0.02


@dataclass(frozen=True)
class RegimeRule:
    """Thresholds that turn two curves into a word.

    Attributes:
        random_loss: Loss of a network that knows nothing; by default the median of the first
            three recorded, if the recording covers the run's start.
        window_blocks: Blocks of rows in the second half of the run, on which the word rests.
        significance: Mann-Kendall standard deviations below which a fall is chance (one-sided 5%).
        falling: A quantity falls if it loses at least this part of itself over the window.
        flat_change: A quantity is flat if its trend over the window is within this part.
        flat_spread: And if its largest block is within this factor of its smallest.
        well_below: A loss below this part of the random level is well below it.
        at_level: A loss of at least this part of the random level is at it.
        converged: A loss that stays below this part of the random level is at its floor.
        least_turn: Radians the tensors must have turned in all before a loss at its random level
            counts as divergence and not as standing still.
    """

    random_loss: float | None = None
    window_blocks: int = 10
    significance: float = 1.645
    falling: float = 0.1
    flat_change: float = 0.25
    flat_spread: float = 2.0
    well_below: float = 0.9
    at_level: float = 0.95
    converged: float = 1e-3
    least_turn: float = 0.1


@dataclass(frozen=True)
class Regime:
    """A word and what it rests on.

    Attributes:
        word: The regime.
        since_step: First step of it, to the resolution of a block; None if undetermined.
        reason: One clause saying why.
        evidence: The figures.
    """

    word: Word
    since_step: int | None
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Blocks:
    """A positive quantity by blocks of rows: all of the run's, and the trend of the last ones."""

    values: Float
    trend: Trend
    window: int

    @property
    def last(self) -> float:
        """Median of the window's blocks."""
        return float(np.median(self.values[-self.window :]))

    @property
    def ratio(self) -> float:
        """Factor from one end of the window to the other, by its trend."""
        return math.exp(min(self.trend.change, 700.0))

    def falls(self, rule: RegimeRule, part: float = 1.0) -> bool:
        """Whether it loses at least `part` of what counts as falling, beyond chance."""
        return self.trend.z <= -rule.significance and self.ratio <= 1 - part * rule.falling

    def flat(self, rule: RegimeRule) -> bool:
        """Whether neither its trend nor its scatter leaves the level."""
        steady = abs(self.trend.change) <= math.log1p(rule.flat_change)
        return steady and self.trend.spread <= math.log(rule.flat_spread)

    def near(self, rule: RegimeRule) -> NDArray[np.bool_]:
        """Which blocks are as near the window's level as a flat series may be."""
        limit = math.log(rule.flat_spread)
        return np.abs(_log(self.values) - math.log(max(self.last, _TINY))) <= limit


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
    window = rule.window_blocks
    if len(steps) < 2 * window:
        return _undetermined(
            f"{len(steps)} steps have what it takes (loss, gradients), {2 * window} are needed"
        )
    if loss.min() < 0:
        return _undetermined("the loss is negative at times, and has no level to compare with")
    parts = np.array_split(np.arange(len(steps)), 2 * window)
    starts = np.array([steps[part[0]] for part in parts])
    losses = _blocks(np.array([trimmed_mean(loss[part]) for part in parts]), window)
    evidence: dict[str, Any] = {
        "random_loss": level,
        "window_first_step": int(starts[-window]),
        "loss": losses.last,
        "loss_change_factor": losses.ratio,
        "loss_mann_kendall_z": losses.trend.z,
        "turned_radians": turned,
    }
    if level is not None and losses.last >= rule.at_level * level:
        high = losses.values >= rule.well_below * level
        # A slow start is also at the random level; even a tenth of a fall tells it apart.
        still_falling = losses.falls(rule, 0.1)
        if high[-window:].all() and not still_falling and turned >= rule.least_turn:
            return Regime(
                "divergence",
                _since(starts, high),
                "the loss is at or above its random level",
                evidence,
            )
    if gradient_norm is None:
        return _undetermined("without gradients only divergence could be told", evidence)
    slopes = _blocks(np.array([gradient_norm[usable][part].mean() for part in parts]), window)
    evidence |= {
        "effective_gradient_norm": slopes.last,
        "effective_gradient_norm_change_factor": slopes.ratio,
        "effective_gradient_norm_mann_kendall_z": slopes.trend.z,
    }
    if losses.falls(rule) and slopes.falls(rule):
        peak = max(int(np.argmax(losses.values)), int(np.argmax(slopes.values)))
        return Regime(
            "convergence", int(starts[peak]), "loss and effective gradient norm fall", evidence
        )
    if level is None:
        return _undetermined(
            "the recording starts too late to know the random level of the loss", evidence
        )
    floor = losses.values <= rule.converged * level
    if floor[-window:].all():
        return Regime(
            "convergence",
            _since(starts, floor),
            "the loss has reached its floor",
            evidence,
        )
    steady = losses.flat(rule) and slopes.flat(rule) and not losses.falls(rule)
    if steady and losses.last <= rule.well_below * level:
        settled = losses.near(rule) & slopes.near(rule)
        return Regime(
            "chaotic_equilibrium",
            _since(starts, settled),
            "loss and effective gradient norm are flat",
            evidence,
        )
    return _undetermined(
        "loss and effective gradient norm neither both fall nor both stay flat", evidence
    )


def _blocks(values: Float, window: int) -> _Blocks:
    return _Blocks(values, trend(_log(values[-window:])), window)


def _log(values: Float) -> Float:
    """Logarithm with zero taken as the smallest float: a loss of exactly zero has arrived."""
    return np.asarray(np.log(np.maximum(values, _TINY)), np.float64)


def random_level(steps: Steps, loss: Float, rule: RegimeRule) -> float | None:
    """Loss of a network that knows nothing yet.

    Args:
        steps: Every step at which the loss was recorded, int64, shape (n,).
        loss: The losses; what is not finite is left out.
        rule: Its `random_loss` comes first.

    Returns:
        The option, else the median of the first three losses if they cover the run's start;
        None if they do not.
    """
    if rule.random_loss is not None:
        return rule.random_loss
    first = np.flatnonzero(np.isfinite(loss))[:3]
    if not len(first) or steps[first[0]] > max(_START_STEP, _START_PART * steps[-1]):
        return None
    return float(np.median(loss[first]))


def _since(starts: Steps, holds: NDArray[np.bool_]) -> int:
    """First step of the last unbroken stretch of blocks for which something holds."""
    broken = np.flatnonzero(~holds)
    index = int(broken[-1]) + 1 if len(broken) else 0
    return int(starts[min(index, len(starts) - 1)])


def _undetermined(reason: str, evidence: dict[str, Any] | None = None) -> Regime:
    return Regime("undetermined", None, reason, evidence or {})
