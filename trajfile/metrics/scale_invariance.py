"""Which tensors the loss does not see the length of.

If f(cθ) = f(θ) for every c > 0, then by Euler's theorem ⟨∇f(θ), θ⟩ = 0. Weights in front of a
normalisation layer are such. Recorded gradients show it: |⟨g, θ⟩| is a rounding error beside
‖g‖‖θ‖. The gradient must be the loss's own: one with weight decay added has ⟨g, θ⟩ = λ‖θ‖².
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtrc, betainc, betaincinv

from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Inner, Need, Row
from trajfile.linalg import cosine
from trajfile.metrics.ranges import Share
from trajfile.metrics.rowwise import of_tensors, rows
from trajfile.metrics.snapshots import PAIRED_GRADIENT, PAIRED_THETA
from trajfile.report import Finding

Float = NDArray[np.float64]

#: Fewest gradients from which invariance is concluded.
_FEWEST_ROWS = 3


@dataclass(frozen=True)
class InvarianceRule:
    """Thresholds on the median |cos(g, θ)| of a tensor.

    Attributes:
        scale_invariance_cosine: A tensor not declared is taken as scale-invariant below this
            (normalisation layers add an epsilon, so it is not quite zero).
        declared_cosine: A tensor declared scale-invariant is reported as not being so above this.
        invariance_chance: A tensor is found scale-invariant only if unrelated vectors would show
            so small a median in fewer than this part of cases.
    """

    scale_invariance_cosine: Share = 1e-3
    declared_cosine: Share = 1e-2
    invariance_chance: Share = 0.01


@dataclass(frozen=True)
class Evidence:
    """What the gradients of one tensor say.

    Attributes:
        cosine: Median |cos(g, θ)|.
        gradients: How many gradients it is the median of.
        chance_cosine: The median that unrelated vectors of the tensor's size would have.
        chance: Probability that as many unrelated vectors have so small a median: the tail of a
            binomial, the cosine's square being Beta(1/2, (n-1)/2) distributed in n dimensions.
    """

    cosine: float
    gradients: int
    chance_cosine: float
    chance: float


@dataclass(frozen=True)
class Invariant:
    """The scale-invariant tensors of a run and how they are known.

    Attributes:
        tensors: Their names, in recorded order.
        declared: Whether the run declares them; otherwise they were found from the gradients.
        evidence: Of each tensor that has a few gradients.
        violated: Declared tensors whose gradients contradict it.
        reason: Why there are none, if there are none.
    """

    tensors: tuple[str, ...]
    declared: bool
    evidence: dict[str, Evidence] = field(default_factory=dict)
    violated: tuple[str, ...] = ()
    reason: str = ""

    @property
    def note(self) -> str:
        """One sentence on how the tensors are known."""
        if not self.tensors:
            return self.reason
        count = len(self.tensors)
        known = [self.evidence[name] for name in self.tensors if name in self.evidence]
        if not known:
            return (
                f"Scale-invariant tensors: the {count} that the run declares; no gradients are "
                "there to check it by."
            )
        gradients = min(entry.gradients for entry in known)
        shown = (
            f"median |cos(g, θ)| at most {max(entry.cosine for entry in known):.1g} over "
            f"{gradients} gradients or more, where unrelated vectors would have "
            f"{min(entry.chance_cosine for entry in known):.1g} or more"
        )
        if self.declared:
            return f"Scale-invariant tensors: the {count} that the run declares ({shown})."
        return (
            f"Scale-invariant tensors: {count}, found from the gradients (⟨g, θ⟩ = 0; {shown}; by "
            f"chance with probability {max(entry.chance for entry in known):.1g} at most a "
            "tensor); the run declares none."
        )

    def summary(self, name: str) -> dict[str, float | int | None]:
        """What is known of one tensor, for its part of a report."""
        known = self.evidence.get(name)
        return {
            "scale_invariance": None if known is None else known.cosine,
            "scale_invariance_gradients": 0 if known is None else known.gradients,
            "scale_invariance_chance_cosine": None if known is None else known.chance_cosine,
            "scale_invariance_chance": None if known is None else known.chance,
        }


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
    evidence = _evidence(measured)
    if declared:
        violated = [
            name
            for name in declared
            if name in evidence and evidence[name].cosine > rule.declared_cosine
        ]
        return Invariant(declared, True, evidence, tuple(violated))
    if not header.has("gradients"):
        reason = "No tensor is declared scale-invariant, and no gradients were recorded to tell."
        return Invariant((), False, reason=reason)
    if not measured.per_tensor_kept:
        reason = (
            "No tensor is declared scale-invariant, and the memory budget left no room for "
            "per-tensor values to find them by."
        )
        return Invariant((), False, reason=reason)
    small = {n: e for n, e in evidence.items() if e.cosine <= rule.scale_invariance_cosine}
    found = tuple(name for name, entry in small.items() if entry.chance <= rule.invariance_chance)
    if found:
        return Invariant(found, False, evidence)
    return Invariant((), False, evidence, reason=_why_none(evidence, small, rule))


def _why_none(
    evidence: dict[str, Evidence], small: dict[str, Evidence], rule: InvarianceRule
) -> str:
    """Why no tensor is found scale-invariant."""
    if not evidence:
        return (
            "No tensor is declared scale-invariant, and there are too few gradients recorded "
            f"together with snapshots to tell ({_FEWEST_ROWS} are needed)."
        )
    if small:
        entry = min(small.values(), key=lambda e: e.chance)
        return (
            f"No tensor is known to be scale-invariant: a median |cos(g, θ)| of {entry.cosine:.2g} "
            f"over {entry.gradients} gradients could be chance (probability {entry.chance:.2g}, "
            f"expected at most {rule.invariance_chance:g})."
        )
    smallest = min(entry.cosine for entry in evidence.values())
    return (
        f"No tensor is scale-invariant: the smallest median |cos(g, θ)| is {smallest:.2g}, "
        f"expected at most {rule.scale_invariance_cosine:g}."
    )


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
    worst = max(invariant.violated, key=lambda name: invariant.evidence[name].cosine)
    return [
        Finding(
            f"{metric}.not_scale_invariant",
            "warn",
            f"{len(invariant.violated)} of {len(invariant.tensors)} tensors declared "
            f"scale-invariant are not: median |cos(g, θ)| of {worst} is "
            f"{invariant.evidence[worst].cosine:.2g}, expected at most {rule.declared_cosine:g}; "
            "correct the group, or record gradients without weight decay added.",
            {
                "tensors": list(invariant.violated),
                "median_cosine": [invariant.evidence[name].cosine for name in invariant.violated],
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


def _evidence(measured: Measurements) -> dict[str, Evidence]:
    """What the gradients say of each tensor that has at least a few that are not zero."""
    if not measured.header.has("params", "gradients"):
        return {}
    names, products = of_tensors(measured, PAIRED_THETA, PAIRED_GRADIENT)
    squares = of_tensors(measured, PAIRED_THETA, PAIRED_THETA, names)[1]
    slopes = of_tensors(measured, PAIRED_GRADIENT, PAIRED_GRADIENT, names)[1]
    known = rows(np.abs(cosine(squares, slopes, products)))
    sizes = np.array([measured.header.tensors["params"][name].size for name in names], np.int64)
    middles, chances = chance_of(known.medians, known.counts, sizes)
    columns = (known.medians, known.counts, middles, chances)
    entries = zip(*(column.tolist() for column in columns), strict=True)
    told = {name: Evidence(*entry) for name, entry in zip(names, entries, strict=True)}
    return {name: entry for name, entry in told.items() if entry.gradients >= _FEWEST_ROWS}


def chance_of(median: ArrayLike, count: ArrayLike, size: ArrayLike) -> tuple[Float, Float]:
    """How unrelated vectors would compare with a median |cos|, for one or many.

    Args:
        median: Of |cos|, observed.
        count: Of how many pairs of vectors.
        size: Their dimension n; in one dimension every |cos| is 1.

    Returns:
        The median |cos| they would have, and the probability that `count` of them have one of at
        most `median` (an upper bound if `count` is even).
    """
    median, count, size = np.asarray(median, np.float64), np.asarray(count), np.asarray(size)
    half = (np.maximum(size, 2) - 1) / 2
    middle = np.sqrt(betaincinv(0.5, half, 0.5))
    single = betainc(0.5, half, np.minimum(median, 1.0) ** 2)
    chance = bdtrc((count + 1) // 2 - 1, count, single)
    line = size < 2
    return np.where(line, 1.0, middle), np.where(line, median >= 1, chance)
