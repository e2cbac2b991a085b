"""The largest eigenvalues of a symmetric operator, each with the residual that bounds its error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Operator = Callable[[torch.Tensor], torch.Tensor]
"""A symmetric operator: float64, shape (n,), to the same."""

#: An image this much smaller than the operator's norm is rounding.
_ROUNDING = 1e-14


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """The largest eigenvalues found.

    Attributes:
        values: Descending, float64, shape (k,).
        residuals: ||Av - lambda v|| of each with its unit vector v, computed by one more product
            and not by the recurrence; shape (k,). An eigenvalue of A lies within that distance.
        converged: Whether each residual is within the tolerance, shape (k,).
        vectors: The unit vectors, float64, shape (k, n).
        products: Products taken.
    """

    values: NDArray[np.float64]
    residuals: NDArray[np.float64]
    converged: NDArray[np.bool_]
    vectors: torch.Tensor
    products: int


def top_eigenpairs(
    operator: Operator,
    start: torch.Tensor,
    *,
    top: int,
    tolerance: float,
    iterations: int,
    capacity: int,
) -> Eigenpairs:
    """Lanczos with full reorthogonalisation and thick restarts (Wu and Simon, 2000).

    A residual bounds the distance to some eigenvalue, ``min_j |lambda_j - theta| <= ||r||``, and
    not which one: that it is the largest rests on the start having a part along its vector, as a
    random one has.

    Args:
        operator: The operator A.
        start: Where the Krylov space starts, float64, shape (n,), not zero. Random.
        top: How many eigenvalues; at most n are found.
        tolerance: Residual, as a share of the largest |Ritz value|, that counts as converged.
        iterations: Most products for the search; one more for each value found checks it.
        capacity: Most basis vectors held; above `top` + 1, and no more than it needs.

    Returns:
        The eigenpairs; all NaN and not converged if an image is not finite.
    """
    size = len(start)
    top = min(top, size)
    capacity = min(max(capacity, top + 2), size, iterations)
    basis = start.new_empty((capacity, size))
    basis[0] = start / start.norm()
    projected = np.zeros((capacity, capacity))
    source = torch.Generator(start.device).manual_seed(1)
    held, breakdowns, products = 1, 0, 0
    while True:
        image = operator(basis[held - 1])
        products += 1
        if not torch.isfinite(image).all():
            return _nothing(top, start, products)
        column, image = _orthogonal(image, basis[:held])
        projected[held - 1, :held] = projected[:held, held - 1] = column
        beta = float(image.norm())
        values, coefficients = np.linalg.eigh(projected[:held, :held])
        scale = float(np.abs(values).max())
        broken = beta <= _ROUNDING * max(scale, float(np.linalg.norm(column)))
        if broken:
            # The basis is closed under A. Another direction finds what it is blind to: the
            # second vector of an eigenvalue that occurs twice, and so on.
            breakdowns += 1
            image = torch.randn(size, generator=source, dtype=start.dtype, device=start.device)
            image = _orthogonal(image, basis[:held])[1]
        small = beta * np.abs(coefficients[-1, -top:]).max() <= tolerance * scale
        found = breakdowns >= top if broken else held >= top and small
        if found or held == size or products >= iterations:
            break
        if held == capacity:
            held = min(2 * top + 2, capacity - 1)
            basis[:held] = _combined(coefficients[:, -held:], basis)
            projected[:] = 0
            projected[range(held), range(held)] = values[-held:]
        basis[held] = image / image.norm()
        held += 1
    vectors = _combined(coefficients[:, ::-1][:, :top], basis[:held])
    return _checked(operator, vectors, tolerance, scale, products)


def _orthogonal(
    image: torch.Tensor, basis: torch.Tensor
) -> tuple[NDArray[np.float64], torch.Tensor]:
    """Coefficients of an image in the basis, and what is left; twice, which is enough."""
    first = basis @ image
    image = image - first @ basis
    second = basis @ image
    column: NDArray[np.float64] = (first + second).cpu().numpy()
    return column, image - second @ basis


def _combined(coefficients: NDArray[np.float64], basis: torch.Tensor) -> torch.Tensor:
    """Unit vectors from columns of coefficients."""
    rows = torch.from_numpy(coefficients.T.copy()).to(basis.device)
    vectors = rows @ basis
    unit: torch.Tensor = vectors / vectors.norm(dim=1, keepdim=True)
    return unit


def _checked(
    operator: Operator, vectors: torch.Tensor, tolerance: float, scale: float, products: int
) -> Eigenpairs:
    """Rayleigh quotients and true residuals of the vectors found."""
    values, residuals = [], []
    for vector in vectors:
        image = operator(vector)
        value = float(vector @ image)
        values.append(value)
        residuals.append(float((image - value * vector).norm()))
    order = np.argsort(values)[::-1]
    bound = np.array(residuals)[order]
    return Eigenpairs(
        np.array(values)[order],
        bound,
        bound <= tolerance * scale,
        vectors[order.copy()],
        products + len(vectors),
    )


def _nothing(top: int, start: torch.Tensor, products: int) -> Eigenpairs:
    empty = np.full(top, np.nan)
    vectors = start.new_full((top, len(start)), torch.nan)
    return Eigenpairs(empty, empty, np.zeros(top, np.bool_), vectors, products)
