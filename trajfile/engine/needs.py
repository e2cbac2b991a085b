"""The vocabulary in which a metric says what it must know.

A trajectory is a matrix: rows are recorded steps, columns are coordinates. Nearly every quantity
is algebra on inner products between rows, or between rows derived from them, and inner products
add over columns. So a metric declares which inner products it wants; the engine computes all of
them in one pass over blocks of columns; the metric then works on small float64 arrays.

Differences are formed coordinate by coordinate before anything is multiplied: recovering the norm
of a small update from inner products of the two snapshots would cancel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Form = Literal["value", "difference", "offset"]


@dataclass(frozen=True)
class Timeline:
    """The steps that a set of streams have in common, which index the rows of a need.

    Attributes:
        along: The streams; a row exists for every step that all of them recorded.
        limit: Keep at most this many of the steps, evenly spread, the first and last among them.
        pairs: Under a limit, keep steps k and k+1 together where both exist, spread evenly over
            such pairs, for laws that lead from one step to the next.
    """

    along: tuple[str, ...]
    limit: int | None = None
    pairs: bool = False

    def pick(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """Apply `limit` to the common steps.

        Args:
            steps: The common steps, increasing, int64.

        Returns:
            The kept steps, int64, increasing.
        """
        if self.limit is None or len(steps) <= self.limit:
            return steps
        adjacent = np.flatnonzero(np.diff(steps) == 1)
        if self.pairs and len(adjacent):
            ends = np.array([0, len(steps) - 1])
            lower = adjacent[_evenly(len(adjacent), max((self.limit - len(ends)) // 2, 1))]
            kept: NDArray[np.int64] = np.unique(np.concatenate([ends, lower, lower + 1]))
            return steps[kept]
        return steps[_evenly(len(steps), self.limit)]


def _evenly(count: int, limit: int) -> NDArray[np.int64]:
    """At most `limit` of `count` indices, evenly spread, the first and last among them."""
    spread = np.linspace(0, count - 1, min(count, limit))
    index: NDArray[np.int64] = np.round(spread).astype(np.int64)
    return index


@dataclass(frozen=True)
class Row:
    """A sequence of vectors, one per step t_0 < t_1 < ... of a timeline.

    Attributes:
        stream: Where the recorded vectors x_i come from.
        timeline: Which steps.
        form: ``value``: x_i. ``difference``: x_{i+1} - x_i (the last row does not exist).
            ``offset``: x_i - x_r, with r the row recorded at step `reference`.
        reference: The step of the reference row; for ``offset`` only.
    """

    stream: str
    timeline: Timeline
    form: Form = "value"
    reference: int | None = None


@dataclass(frozen=True)
class Inner:
    """Inner products <left_i, right_{i+lag}> for each row i and each lag.

    Both rows must share one timeline. Tensors that only one of the streams holds do not count.

    Attributes:
        left: Rows on the left.
        right: Rows on the right; may equal `left`.
        lags: Which lags; a pair with a row that does not exist is NaN.
        per_tensor: Whether each tensor's own inner products are wanted beside their sum.
    """

    left: Row
    right: Row
    lags: tuple[int, ...] = (0,)
    per_tensor: bool = False


@dataclass(frozen=True)
class SampleGram:
    """At each step with gradient samples g_1..g_L: the Gram matrix of g_i - mean(g).

    Attributes:
        stream: Always ``gradient_samples``.
    """

    stream: str = "gradient_samples"


@dataclass(frozen=True)
class LayerLaw:
    """Coefficients of D(i+1) = keep_i D(i) + gain_i E(i) for a `LayerPair`.

    E(i) = G_2' G_2 - G_1 G_1' is formed from the gradients recorded at the timeline's step i.

    Attributes:
        keep: One per row of the timeline; None where the law says nothing about i -> i+1.
        gain: Likewise.
    """

    keep: tuple[float | None, ...]
    gain: tuple[float | None, ...]


@dataclass(frozen=True)
class LayerPair:
    """The matrix imbalance D = W_2' W_2 - W_1 W_1' of two adjacent layers at each step.

    W_1 has shape (h, a) and W_2 shape (b, h), as PyTorch stores linear layers: h is the width of
    the layer between them.

    Attributes:
        first: Name of W_1 in ``params``.
        second: Name of W_2 in ``params``.
        timeline: Which steps; along ``params``, and ``gradients`` too if `law` is given.
        law: If given, the law whose residual is measured.
    """

    first: str
    second: str
    timeline: Timeline
    law: LayerLaw | None = None


@dataclass(frozen=True)
class Preconditioner:
    """Adam's P = (1 - beta_1^t)(sqrt(v/(1 - beta_2^t)) + eps), from the recorded second moment v.

    Adam moves by -eta exp_avg/P: on a quadratic its stability is that of P^{-1/2} H P^{-1/2}.

    Attributes:
        slot: The stream that holds v.
        betas: beta_1 and beta_2.
        eps: Adam's eps.
    """

    slot: str
    betas: tuple[float, float]
    eps: float


@dataclass(frozen=True)
class Replay:
    """The top of the loss Hessian's spectrum at chosen snapshots, by the user's own loss.

    Attributes:
        snapshots: Most snapshots to look at.
        top: Largest eigenvalues wanted at each.
        tolerance: Residual ||Hv - lambda v||, as a share of the largest |lambda| seen, at which
            an eigenpair counts as found.
        iterations: Most Hessian-vector products that the search at one snapshot may take.
        trace: Hessian-vector products spent on the trace at each snapshot; 0 for none.
        float64: Whether float tensors are handed to the loss in float64 instead of as recorded.
        preconditioner: If given, the preconditioned Hessian is measured too.
    """

    snapshots: int
    top: int
    tolerance: float
    iterations: int
    trace: int
    float64: bool
    preconditioner: Preconditioner | None = None


Need = Inner | SampleGram | LayerPair | Replay
