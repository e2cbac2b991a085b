"""Which tensors the loss does not see the length of.

If f(cθ) = f(θ) for every c > 0, then by Euler's theorem ⟨∇f(θ), θ⟩ = 0. Weights in front of a
normalisation layer are such. Recorded gradients show it: |⟨g, θ⟩| is a rounding error beside
‖g‖‖θ‖. The gradient must be the loss's own: one with weight decay added has ⟨g, θ⟩ = λ‖θ‖².
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Inner, Need, Row
from trajfile.linalg import cosine
from trajfile.metrics.robust import finite
from trajfile.metrics.snapshots import PAIRED_GRADIENT, PAIRED_THETA
from trajfile.report import Finding

Float = NDArray[np.float64]

#: Fewest gradients from which invariance is concluded.
_FEWEST_ROWS = 3

#: Part of 1/√n, the size of a cosine between unrelated vectors, below which a cosine must lie
#: before it says anything in a tensor of n elements.
_BELOW_CHANCE = 0.2


@dataclass(frozen=True)
class InvarianceRule:
    """Thresholds on the median |cos(g, θ)| of a tensor.

    Attributes:
        scale_invariance_cosine: A tensor not declared is taken as scale-invariant below this
            (normalisation layers add an epsilon, so it is not quite zero).
        declared_cosine: A tensor declared scale-invariant is reported as not being so above this.
    """

    scale_invariance_cosine: float = 1e-3
    declared_cosine: float = 1e-2


@dataclass(frozen=True)
class Invariant:
    """The scale-invariant tensors of a run and how they are known.

    Attributes:
        tensors: Their names, in recorded order.
        declared: Whether the run declares them; otherwise they were found from the gradients.
        cosine: Median |cos(g, θ)| of each tensor that has gradients.
        violated: Declared tensors whose gradients contradict it.
        reason: Why there are none, if there are none.
    """

    tensors: tuple[str, ...]
    declared: bool
    cosine: dict[str, float] = field(default_factory=dict)
    violated: tuple[str, ...] = ()
    reason: str = ""

    @property
    def note(self) -> str:
        """One sentence on how the tensors are known."""
        if not self.tensors:
            return self.reason
        count = len(self.tensors)
        if self.declared:
            return f"Scale-invariant tensors: the {count} that the run declares."
        return (
            f"Scale-invariant tensors: {count}, found from the gradients (⟨g, θ⟩ = 0); the run "
            "declares none."
        )


def declared_tensors(header: Header) -> tuple[str, ...]:
    """Names in the group ``scale_invariant`` that are among the parameters, in recorded order."""
    named = set(header.groups.get("scale_invariant", ()))
    return tuple(name for name in header.tensors.get("params", {}) if name in named)


def invariance_needs(header: Header) -> frozenset[Need]:
    """What `find_invariant` wants measured; nothing without gradients."""
    if not header.has("params", "gradients"):
        return frozenset()
    return frozenset(
        {
            Inner(PAIRED_THETA, PAIRED_THETA, per_tensor=True),
            Inner(PAIRED_GRADIENT, PAIRED_GRADIENT, per_tensor=True),
            Inner(PAIRED_THETA, PAIRED_GRADIENT, per_tensor=True),
        }
    )


def find_invariant(measured: Measurements, rule: InvarianceRule) -> Invariant:
    """Find the scale-invariant tensors, or check those that are declared.

    Args:
        measured: With `invariance_needs` among what was declared.
        rule: The thresholds.

    Returns:
        The declared tensors if there are any, else those that the gradients show.
    """
    header = measured.header
    declared = declared_tensors(header)
    cosines = _median_cosines(measured)
    if declared:
        violated = [name for name in declared if cosines.get(name, 0.0) > rule.declared_cosine]
        return Invariant(declared, True, cosines, tuple(violated))
    if not header.has("gradients"):
        reason = "No tensor is declared scale-invariant, and no gradients were recorded to tell."
        return Invariant((), False, reason=reason)
    if not measured.per_tensor_kept:
        reason = (
            "No tensor is declared scale-invariant, and the memory budget left no room for "
            "per-tensor values to find them by."
        )
        return Invariant((), False, reason=reason)
    params = header.tensors["params"]
    found = tuple(
        name
        for name, value in cosines.items()
        if value <= min(rule.scale_invariance_cosine, _BELOW_CHANCE / math.sqrt(params[name].size))
    )
    if found:
        return Invariant(found, False, cosines)
    smallest = min(cosines.values(), default=math.nan)
    reason = (
        f"No tensor is scale-invariant: the smallest median |cos(g, θ)| is {smallest:.2g}, "
        f"expected at most {rule.scale_invariance_cosine:g}."
        if cosines
        else "No tensor is declared scale-invariant, and there are too few gradients recorded "
        f"together with snapshots to tell ({_FEWEST_ROWS} are needed)."
    )
    return Invariant((), False, cosines, reason=reason)


def invariance_findings(metric: str, invariant: Invariant, rule: InvarianceRule) -> list[Finding]:
    """A warning for declared tensors that are not scale-invariant.

    Args:
        metric: The id to report it under.
        invariant: What was found.
        rule: The thresholds.

    Returns:
        No finding or one.
    """
    if not invariant.violated:
        return []
    worst = max(invariant.violated, key=lambda name: invariant.cosine[name])
    return [
        Finding(
            f"{metric}.not_scale_invariant",
            "warn",
            f"{len(invariant.violated)} of {len(invariant.tensors)} tensors declared "
            f"scale-invariant are not: median |cos(g, θ)| of {worst} is "
            f"{invariant.cosine[worst]:.2g}, expected at most {rule.declared_cosine:g}; correct "
            "the group, or record gradients without weight decay added.",
            {
                "tensors": list(invariant.violated),
                "median_cosine": [invariant.cosine[name] for name in invariant.violated],
                "limit": rule.declared_cosine,
            },
        )
    ]


def inner_over(
    measured: Measurements, left: Row, right: Row, tensors: Iterable[str]
) -> Float | None:
    """⟨left_i, right_i⟩ over some tensors, by whatever was kept.

    Args:
        measured: The measurements.
        left: Rows on the left, as declared.
        right: Rows on the right, as declared.
        tensors: The tensors to sum over.

    Returns:
        float64, one per row of the timeline; None if a tensor is missing from either stream, or
        if per-tensor values were not kept and these are not all the tensors there are.
    """
    wanted = set(tensors)
    streams = measured.header.tensors
    common = streams[left.stream].keys() & streams[right.stream].keys()
    if not wanted <= common:
        return None
    if wanted == common:
        return measured.inner(left, right)
    if not measured.per_tensor_kept:
        return None
    return measured.inner(left, right, tensors=[n for n in streams[left.stream] if n in wanted])


def _median_cosines(measured: Measurements) -> dict[str, float]:
    """Median |cos(g, θ)| by tensor, where at least a few gradients are non-zero."""
    if not measured.header.has("params", "gradients"):
        return {}
    squares = measured.per_tensor(PAIRED_THETA, PAIRED_THETA)
    slopes = measured.per_tensor(PAIRED_GRADIENT, PAIRED_GRADIENT)
    products = measured.per_tensor(PAIRED_THETA, PAIRED_GRADIENT)
    medians = {}
    for name, product in products.items():
        values = finite(np.abs(cosine(squares[name], slopes[name], product)))
        if len(values) >= _FEWEST_ROWS:
            medians[name] = float(np.median(values))
    return medians
