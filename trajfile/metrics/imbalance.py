"""Layer imbalance: did the layers balance, and did they only once the loss was at its floor?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import LayerBalance, Measurements
from trajfile.engine.needs import Inner, Need
from trajfile.metrics import robust
from trajfile.metrics.base import Metric, Skipped
from trajfile.metrics.imbalance_words import findings, notes, sentence
from trajfile.metrics.intervals import median_interval
from trajfile.metrics.layer_chain import LayerChain, layer_chain
from trajfile.metrics.layer_pairs import PairPlan, law_residuals, plan_pairs
from trajfile.metrics.phases import Slope, floor_reached, is_steeper, slope
from trajfile.metrics.ranges import Count, NotNegative, ProperPart, Several, Share
from trajfile.metrics.rowwise import firsts, lasts, results
from trajfile.metrics.snapshots import SNAPSHOTS, THETA
from trajfile.report import MetricResult, Series, TensorResult, number, numbers, series
from trajfile.schema import PARAMS

Float = NDArray[np.float64]
Steps = NDArray[np.int64]

_NO_LAYERS = (
    "The imbalance is between layers; declare groups['layers'] in order, or record at least two "
    "matrices whose shapes chain."
)
#: Relative spacing of the floats that params may be recorded in; others count as the coarsest.
_SPACING = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


#: What is said of the phases.
_PHASES = (
    "phase_boundary_step",
    "phase_boundary_range",
    "decay_rate",
    "decay_rate_interval",
    "decay_rate_windows",
    "decay_rate_before",
    "decay_rate_before_interval",
    "decay_rate_expected",
    "regularisation_phase",
)


@dataclass(frozen=True)
class Imbalance(Metric):
    """Imbalance of the layers and its two phases.

    Attributes:
        phase_fraction: Share of the loss's way down that may be left when its floor is reached.
        smoothing: Width of the running median of the loss, as a share of its samples.
        least_drop: Smallest fall of ln|D| that counts as a regularisation phase.
        law_tolerance: Largest residual of the law, relative to the change, that is not reported.
        law_changes: Fewest changes of D that give a residual.
        matrix_steps: Most steps at which the matrix imbalance is measured.
        matrix_work: Most multiplications to spend on it, over all pairs and steps.
        max_width: Widest pair for which it is measured.
    """

    phase_fraction: ProperPart = 0.01
    smoothing: Share = 0.02
    least_drop: NotNegative = 0.05
    law_tolerance: NotNegative = 0.05
    law_changes: Count = 3
    matrix_steps: Several = 64
    matrix_work: NotNegative = 2e10
    max_width: Count = 2048

    id: ClassVar[str] = "imbalance"
    title: ClassVar[str] = "layer imbalance and its two phases"
    definition: ClassVar[str] = (
        "max_abs is max |‖W_i‖² − ‖W_j‖²| over all pairs of layers (form after the paper), with "
        "Frobenius norms. frobenius_max is the largest ‖D_i‖_F over adjacent pairs, D_i = "
        "W_{i+1}ᵀW_{i+1} − W_iW_iᵀ. For plain SGD with coupled decay λ on linear layers, exactly "
        "D_i' = (1 − ηλ)²D_i + η²(G_{i+1}ᵀG_{i+1} − G_iG_iᵀ); law_residual is the median of "
        "‖D_i' − that‖_F / ‖D_i' − D_i‖_F. The phase boundary is the first step from which "
        "(L − L_floor)/(L_0 − L_floor) < 0.01 for good, with a change point of ln(L − L_floor) "
        "within a factor of two of it; decay_rate is the slope of ln max_abs per step after it. "
        "A regularisation phase is one in which max_abs shrinks faster than before."
    )
    reference: ClassVar[str] = (
        "Ginsburg, On regularization of gradient descent, layer imbalance and flat minima, "
        "arXiv 2007.09286"
    )
    ingredients: ClassVar[str] = "params; loss, learning_rate; gradients for the law"

    def needs(self, header: Header) -> frozenset[Need] | Skipped:
        """Norms of all tensors, and the matrix imbalance of adjacent layers at some steps."""
        if not header.has(PARAMS):
            return Skipped("The imbalance needs params.", PARAMS)
        chain = layer_chain(header)
        if chain is None:
            return Skipped(_NO_LAYERS, remedy="declare groups['layers']")
        norms = Inner(THETA, THETA, per_tensor=True)
        return frozenset({norms, *self._pairs(header, chain).needs})

    def compute(self, measured: Measurements) -> MetricResult:
        """Imbalances, the law's residual, the phases and the rate of decay."""
        header = measured.header
        chain = layer_chain(header)
        squared = measured.per_tensor(THETA, THETA)
        if chain is None or any(name not in squared for name in chain.names):
            return self._insufficient(
                "The norms of the layers were left out to stay within the memory budget; allow "
                "more with --memory."
            )
        plan = self._pairs(header, chain)
        layers = np.stack([squared[name] for name in chain.names])
        widest = layers.max(axis=0) - layers.min(axis=0)
        if not np.isfinite(widest).any():
            return self._insufficient("No snapshot has finite layers; found only NaN or infinity.")
        steps = header.timeline_steps(SNAPSHOTS)
        balances = {
            need: measured.layer_balances[need]
            for need in plan.needs
            if need in measured.layer_balances
        }
        spacing = _rounding(header, chain)
        noise = spacing * layers.max(axis=0)
        phases = self._phases(header, steps, np.where(widest > 10 * noise, widest, 0.0))
        residuals = law_residuals(balances, steps, squared, spacing)
        enough = len(residuals) >= self.law_changes
        summary: dict[str, Any] = {
            "pairs": len(chain.names) - 1,
            "pairs_measured": len(balances),
            "layers": list(chain.names),
            "layers_confidence": chain.confidence,
            "max_abs_first": number(robust.first(widest)),
            "max_abs_last": number(robust.last(widest)),
            **phases,
            "law_residual": number(robust.median(residuals)) if enough else None,
            "law_residual_interval": median_interval(residuals).pair if enough else None,
            "law_steps": len(residuals),
        }
        shown: dict[str, Series] = {"max_abs": series(steps, widest)}
        shown["frobenius_max"], shown["neuron_max"] = _largest(list(balances.values()))
        told, salience = sentence(summary, len(chain.names))
        return MetricResult(
            "ok" if len(steps) > 1 else "insufficient",
            None if len(steps) > 1 else "One snapshot shows no change; found 1, expected 2.",
            summary=summary,
            series=shown,
            per_tensor=_per_layer(chain, layers),
            findings=findings(chain, summary, self.law_tolerance),
            definition=self.definition,
            reference=self.reference,
            notes=notes(header, chain, plan, summary, self.law_changes),
            sentence=told if len(steps) > 1 else None,
            salience=salience,
            options=self.options,
        )

    def _pairs(self, header: Header, chain: LayerChain) -> PairPlan:
        return plan_pairs(
            header,
            chain,
            steps=self.matrix_steps,
            work=self.matrix_work,
            max_width=self.max_width,
        )

    def _insufficient(self, reason: str) -> MetricResult:
        return MetricResult(
            "insufficient",
            reason,
            definition=self.definition,
            reference=self.reference,
            options=self.options,
        )

    def _phases(self, header: Header, steps: Steps, imbalance: Float) -> dict[str, Any]:
        """The phase boundary, the rates around it, and whether a regularisation phase follows."""
        told: dict[str, Any] = dict.fromkeys(_PHASES)
        found = None
        if "loss" in header.scalars:
            at, loss = header.scalars["loss"]
            found = floor_reached(at, loss, fraction=self.phase_fraction, smoothing=self.smoothing)
        if found is None:
            return told
        if found.low is not None and found.high is not None:
            told["phase_boundary_range"] = [
                min(found.low, found.step),
                max(found.high, found.step),
            ]
        if not found.agreed:
            return told
        told["phase_boundary_step"] = found.step
        log = np.log(imbalance, out=np.full(len(steps), np.nan), where=imbalance > 0)
        before, after = _rates(steps, log, found.step)
        late = steps >= found.step
        told["decay_rate_expected"] = number(_expected_rate(header, steps[late]))
        if after is not None:
            told["decay_rate"] = number(after.value)
            told["decay_rate_interval"] = after.interval
            told["decay_rate_windows"] = after.windows
        if before is not None:
            told["decay_rate_before"] = number(before.value)
            told["decay_rate_before_interval"] = before.interval
        # The word has to hold wherever in its range the boundary lies.
        around = [(before, after)]
        if found.high not in {None, found.step}:
            around.append(_rates(steps, log, found.high))
        words = {
            is_steeper(fall, rest, self.least_drop) if fall and rest else None
            for rest, fall in around
        }
        told["regularisation_phase"] = words.pop() if len(words) == 1 else None
        return told


def _rates(steps: Steps, log: Float, boundary: int) -> tuple[Slope | None, Slope | None]:
    """The slopes of ln|D| before and after the boundary; None without an interval."""
    late = steps >= boundary
    at = steps.astype(np.float64)
    before, after = slope(at[~late], log[~late]), slope(at[late], log[late])
    # A line whose scatter is worth too few windows for an interval is no figure to give.
    return (
        before if before is not None and before.interval is not None else None,
        after if after is not None and after.interval is not None else None,
    )


def _per_layer(chain: LayerChain, layers: Float) -> dict[str, TensorResult]:
    """Each layer's squared norm, and how far the next one's is above it."""
    above = np.diff(layers, axis=0)
    return results(
        chain.names,
        {
            "squared_norm_first": numbers(firsts(layers)),
            "squared_norm_last": numbers(lasts(layers)),
            "next_above_first": [*numbers(firsts(above)), None],
            "next_above_last": [*numbers(lasts(above)), None],
        },
    )


def _rounding(header: Header, chain: LayerChain) -> float:
    """Relative spacing of the coarsest float among the layers."""
    dtypes = {header.tensors[PARAMS][name].dtype for name in chain.names}
    return max(_SPACING.get(dtype, 2.0**-2) for dtype in dtypes)


def _expected_rate(header: Header, steps: Steps) -> float:
    """-2 eta lambda, the rate at which weight decay alone shrinks D; NaN if it does not apply."""
    name = str(header.optimizer.get("name", "")).upper()
    rates = robust.finite(header.learning_rate_at(steps))
    decoupled = bool(header.optimizer.get("decoupled_weight_decay")) or name == "ADAMW"
    if header.weight_decay == 0 or len(rates) == 0 or not (decoupled or name in {"SGD", "GD"}):
        return float("nan")
    # With momentum a coupled decay is accumulated like any gradient, 1/(1 - beta)-fold, less
    # what dampening takes off.
    kept = 1.0 - float(header.optimizer.get("dampening") or 0.0) if header.momentum else 1.0
    amplified = 1.0 if decoupled else kept / (1.0 - min(header.momentum, 0.999999))
    return -2 * float(rates.mean()) * header.weight_decay * amplified


def _largest(balances: list[LayerBalance]) -> tuple[Series, Series]:
    """Over pairs, the largest ||D||_F and the largest per-neuron imbalance at each step."""
    if not balances:
        return Series([], []), Series([], [])
    steps = balances[0].steps
    frobenius = np.max([balance.frobenius for balance in balances], axis=0)
    neuron = np.max([balance.diagonal_max for balance in balances], axis=0)
    return series(steps, frobenius), series(steps, neuron)
