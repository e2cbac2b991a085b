"""Curvature on the subspace of recent displacements, from inner products alone.

With displacements s_j = theta_{j+1} - theta_j and gradient differences y_j = g_{j+1} - g_j, a
quadratic loss has y_j = H s_j. On an orthonormal basis Q of span(s) the matrix M = Q'HQ follows
from <s_i, s_j> and <s_i, y_j>, and its top eigenvalue bounds lambda_max(H) from below.

On a real loss the pairs see different Hessians. Directions in which the displacements hardly
differ then amplify those differences, and the plain recipe overshoots lambda_max several times
over. The cure is built in: with one shared Hessian M is symmetric, so the directions, taken by
falling singular value of S, are kept only as long as M stays symmetric to a tolerance. A
quadratic keeps them all; a burst at the edge of stability keeps the one or two that are real.

The residual ||Hq - theta q|| of the Ritz pair (theta, q) follows from <y_i, y_j> as well. Where one
Hessian is shared, one of its eigenvalues lies within that residual of theta. What differing
Hessians add to M has a symmetric part, which moves theta and cannot be seen, and a skew part, which
can: the stated error adds ||M - M'|| of the kept block, which stands for both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Ritz:
    """Ritz values of n windows.

    Attributes:
        value: Top eigenvalue of the symmetric part of M on the kept directions, shape (n,); NaN
            for an empty window.
        rank: Number of kept directions, int64, shape (n,).
        asymmetry: ||M - M'||_F / ||M||_F over all directions, kept or not: 0 if the pairs share
            one Hessian, about sqrt(2) if they share nothing. Shape (n,), NaN for an empty window.
        error: ||Hq - value q|| of the Ritz vector q, from the gradient differences themselves,
            and ||M - M'||_F of the kept directions; 0 if the run moved along an eigenvector
            alone. Shape (n,), NaN for an empty window.
    """

    value: Float
    rank: NDArray[np.int64]
    asymmetry: Float
    error: Float


def ritz_values(gram: Float, cross: Float, turns: Float, tolerance: float) -> Ritz:
    """Top Ritz value of each window.

    The displacements are normalised first, so that a long and a short one count alike; M's
    leading blocks belong to the leading singular directions, and the largest leading block is
    taken up to which every block has ||M - M'||_F <= tolerance * ||M||_F.

    Args:
        gram: <s_a, s_b>, float64, shape (n, w, w); a pair that is absent has a zero row and column.
        cross: <s_a, y_b>, float64, shape (n, w, w), likewise.
        turns: <y_a, y_b>, float64, shape (n, w, w), likewise.
        tolerance: Largest accepted asymmetry of a kept block.

    Returns:
        The values; see `Ritz`.
    """
    lengths = np.sqrt(np.diagonal(gram, axis1=1, axis2=2))
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    scale = inverse[:, :, None] * inverse[:, None, :]
    singular, basis = np.linalg.eigh(gram * scale)
    singular, basis = singular[:, ::-1], basis[:, :, ::-1]
    # Below this the direction is rounding of the inner products, in float64.
    usable = singular > 64 * np.finfo(np.float64).eps * np.maximum(singular[:, :1], 1e-300)
    root = np.divide(1.0, np.sqrt(np.abs(singular)), out=np.zeros_like(singular), where=usable)
    onto = basis * root[:, None, :]
    matrix = onto.transpose(0, 2, 1) @ (cross * scale) @ onto
    # <Hq_a, Hq_b> of the orthonormal directions q, as the gradient differences tell of Hq.
    image = onto.transpose(0, 2, 1) @ (turns * scale) @ onto

    skew = _leading_norms(matrix - matrix.transpose(0, 2, 1))
    whole = _leading_norms(matrix)
    asymmetry = np.divide(skew, whole, out=np.zeros_like(skew), where=whole > 0)
    kept = np.logical_and.accumulate(usable & (asymmetry <= tolerance), axis=1)
    top, vector = _top_eigenpair((matrix + matrix.transpose(0, 2, 1)) / 2, kept)
    # q'Hq = top, so the squared length of Hq - top q is that of Hq less top².
    length = np.einsum("na,nab,nb->n", vector, image, vector)
    residual = np.sqrt(np.maximum(length - top**2, 0.0))
    last = np.maximum(kept.sum(axis=1) - 1, 0)
    error = residual + np.take_along_axis(skew, last[:, None], axis=1)[:, 0]
    empty = ~usable[:, 0]
    return Ritz(
        np.where(empty, np.nan, top),
        kept.sum(axis=1),
        np.where(empty, np.nan, asymmetry[:, -1]),
        np.where(empty, np.nan, error),
    )


def _leading_norms(matrix: Float) -> Float:
    """Frobenius norms of the leading r x r blocks, r = 1..w, shape (n, w)."""
    square = matrix * matrix
    # What each row and column adds to the block of those before it.
    grown = [
        square[:, r, :r].sum(axis=1) + square[:, : r + 1, r].sum(axis=1)
        for r in range(square.shape[1])
    ]
    return np.asarray(np.sqrt(np.cumsum(np.stack(grown, axis=1), axis=1)))


def _top_eigenpair(symmetric: Float, kept: NDArray[np.bool_]) -> tuple[Float, Float]:
    """Largest eigenvalue of the kept leading blocks, shape (n,), and its vector, (n, w)."""
    top, vector = symmetric[:, 0, 0].copy(), np.zeros(kept.shape)
    vector[:, 0] = 1
    # Of one direction there is nothing to find out.
    several = np.flatnonzero(kept[:, 1:2].any(axis=1))
    if len(several):
        top[several], vector[several] = _largest(symmetric[several], kept[several])
    return top, vector


def _largest(symmetric: Float, kept: NDArray[np.bool_]) -> tuple[Float, Float]:
    block = symmetric * (kept[:, :, None] & kept[:, None, :])
    # Dropped directions get an eigenvalue below any of the block's own.
    beneath = -2 * np.sqrt(np.sum(block * block, axis=(1, 2)))
    width = symmetric.shape[1]
    filled = block + np.eye(width) * np.where(kept, 0.0, beneath[:, None])[:, None, :]
    values, vectors = np.linalg.eigh(filled)
    return np.asarray(values[:, -1], np.float64), np.asarray(vectors[:, :, -1], np.float64)
