"""What the engine hands to the metrics: the declared quantities, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.needs import LayerPair, Replay, Row, SampleGram

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """Inner products of one pair of row sequences.

    Attributes:
        lags: The lags, in order.
        total: Sum over tensors, float64, shape (rows of the timeline, lags); NaN where a row does
            not exist.
        tensors: Per tensor, the same shape; empty if not asked for, or not kept within the
            memory budget. NaN also where the tensor had not joined yet.
        tensor_lags: The lags of `tensors`, where they are fewer than `lags`; empty if the same.
    """

    lags: tuple[int, ...]
    total: Float
    tensors: Mapping[str, Float] = field(default_factory=dict)
    tensor_lags: tuple[int, ...] = ()

    def tensor_column(self, lag: int) -> int:
        """Where a lag stands in `tensors`.

        Args:
            lag: The lag.

        Returns:
            Its column.

        Raises:
            LookupError: If it was not declared with ``per_tensor``.
        """
        lags = self.tensor_lags or self.lags
        if lag not in lags:
            raise LookupError(f"lag {lag} was not declared with per_tensor")
        return lags.index(lag)


@dataclass(frozen=True)
class SampleGrams:
    """Centred Gram matrices of gradient samples.

    Attributes:
        steps: Steps with samples, int64, shape (n,).
        grams: For each step an array of shape (L, L), float64: <g_i - m, g_j - m>, m the mean.
        mean_norm_squared: ||m||^2 at each step, float64, shape (n,).
        tensors: For each tensor sum_i ||g_i - m||^2 over its own coordinates, the part it has in
            the Gram's trace, float64, shape (n,); empty if per-tensor sums were not kept.
    """

    steps: NDArray[np.int64]
    grams: tuple[Float, ...]
    mean_norm_squared: Float
    tensors: Mapping[str, Float] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerBalance:
    """The matrix imbalance D of a `LayerPair` at each step of its timeline.

    Attributes:
        steps: int64, shape (n,).
        frobenius: ||D||_F, float64, shape (n,).
        diagonal_max: max_j |D_jj|, the largest per-neuron imbalance, shape (n,).
        trace: tr D = ||W_2||_F^2 - ||W_1||_F^2, shape (n,).
        law_residual: ||D(i+1) - keep_i D(i) - gain_i E(i)||_F, shape (n,); NaN where no law
            was given or it says nothing.
        law_change: ||D(i+1) - D(i)||_F, shape (n,), the scale to hold the residual against;
            NaN where `law_residual` is.
    """

    steps: NDArray[np.int64]
    frobenius: Float
    diagonal_max: Float
    trace: Float
    law_residual: Float
    law_change: Float


@dataclass(frozen=True)
class Replayed:
    """What the user's loss says at the snapshots that were replayed.

    Attributes:
        source: The factory, as it was named.
        steps: The snapshots' steps, int64, increasing, shape (n,).
        loss: The loss, float64, shape (n,).
        gradient_norm: ||g||, shape (n,).
        eigenvalues: The largest of the Hessian, descending, shape (n, k); NaN where the loss or
            a derivative of it is not finite.
        residuals: ||Hv - lambda v|| of each with its unit vector v, shape (n, k): an eigenvalue
            of H lies within that distance.
        trace: Estimated trace of the Hessian, shape (n,); NaN where it was not asked for.
        trace_error: Its standard error, shape (n,).
        preconditioned: As `eigenvalues`, of P^{-1/2} H P^{-1/2}; shape (n, 0) without P.
        preconditioned_residuals: As `residuals`, of it.
        converged: Whether the largest eigenvalue's residual is within the tolerance, shape (n,).
        preconditioned_converged: Likewise, shape (n,).
        products: Hessian-vector products taken in all.
        dtypes: Dtypes in which the loss was given the tensors.
        unused: Tensors that the loss does not depend on.
    """

    source: str
    steps: NDArray[np.int64]
    loss: Float
    gradient_norm: Float
    eigenvalues: Float
    residuals: Float
    trace: Float
    trace_error: Float
    preconditioned: Float
    preconditioned_residuals: Float
    converged: NDArray[np.bool_]
    preconditioned_converged: NDArray[np.bool_]
    products: int
    dtypes: tuple[str, ...]
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurements:
    """The answers to the declared needs. Asking for anything else is a bug and raises.

    Attributes:
        header: What was known beforehand.
        bands: Inner products by (left, right).
        sample_grams: By need.
        layer_balances: By need.
        per_tensor_kept: False if per-tensor values were left out to stay within the budget.
        refused: Layer pairs left out to stay within the budget, each with the reason.
        replayed: By need.
    """

    header: Header
    bands: Mapping[tuple[Row, Row], Band] = field(default_factory=dict)
    sample_grams: Mapping[SampleGram, SampleGrams] = field(default_factory=dict)
    layer_balances: Mapping[LayerPair, LayerBalance] = field(default_factory=dict)
    per_tensor_kept: bool = True
    refused: Mapping[LayerPair, str] = field(default_factory=dict)
    replayed: Mapping[Replay, Replayed] = field(default_factory=dict)

    def band(self, left: Row, right: Row) -> Band:
        """All lags measured for a pair; the union of what was declared, in increasing order.

        Args:
            left: Rows on the left, as declared.
            right: Rows on the right, as declared.

        Returns:
            The inner products.

        Raises:
            LookupError: If no metric declared it.
        """
        try:
            return self.bands[left, right]
        except KeyError:
            raise LookupError(f"inner products of {left} and {right} were not declared") from None

    def inner(
        self, left: Row, right: Row, lag: int = 0, tensors: Iterable[str] | None = None
    ) -> Float:
        """<left_i, right_{i+lag}>, summed over tensors.

        Args:
            left: Rows on the left, as declared.
            right: Rows on the right, as declared.
            lag: The lag.
            tensors: Sum over these only; needs ``per_tensor``. All by default.

        Returns:
            float64, shape (rows of the timeline,); NaN where a row does not exist.

        Raises:
            LookupError: If the pair, the lag or a tensor was not declared.
        """
        band = self.band(left, right)
        if lag not in band.lags:
            raise LookupError(f"lag {lag} of {left} and {right} was not declared")
        if tensors is None:
            return band.total[:, band.lags.index(lag)]
        column = band.tensor_column(lag)
        total = np.zeros(len(band.total))
        for name in tensors:
            total = total + band.tensors[name][:, column]
        return total

    def per_tensor(self, left: Row, right: Row, lag: int = 0) -> dict[str, Float]:
        """Each tensor's <left_i, right_{i+lag}>.

        Args:
            left: Rows on the left, as declared with ``per_tensor``.
            right: Rows on the right, as declared with ``per_tensor``.
            lag: The lag.

        Returns:
            By tensor name, float64, shape (rows of the timeline,). Empty if not kept.

        Raises:
            LookupError: If the pair or the lag was not declared.
        """
        band = self.band(left, right)
        if lag not in band.lags:
            raise LookupError(f"lag {lag} of {left} and {right} was not declared")
        if not band.tensors:
            return {}
        column = band.tensor_column(lag)
        return {name: values[:, column] for name, values in band.tensors.items()}

    def replay(self, need: Replay) -> Replayed:
        """What the user's loss said.

        Args:
            need: The need, as declared.

        Returns:
            The measurements.

        Raises:
            LookupError: If no metric declared it.
        """
        try:
            return self.replayed[need]
        except KeyError:
            raise LookupError(f"{need} was not declared") from None
