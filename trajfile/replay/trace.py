"""The trace of a symmetric operator from a few products, with its standard error."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trajfile.replay.lanczos import Operator


@dataclass(frozen=True)
class Trace:
    """An estimated trace.

    Attributes:
        value: The estimate.
        error: Its standard error; 0 where the trace was computed in full.
        products: Products taken.
    """

    value: float
    error: float
    products: int


def trace(operator: Operator, like: torch.Tensor, products: int) -> Trace:
    """Hutch++ (Meyer, Musco, Musco and Woodruff, 2021): exact on a sketch, sampled on the rest.

    With Q an orthonormal basis of A S, S random signs, tr A = tr(Q'AQ) + tr(PAP), P = 1 - QQ'.
    The second trace is the mean of z'PAPz over random signs z; its standard error is the standard
    deviation of these over the square root of their number. A third of the products goes to each
    of AS, AQ and Az.

    Args:
        operator: The operator A.
        like: A float64 vector of shape (n,) that says on which device.
        products: Products to take, at least 6. Where that is n or more, n are taken, on the unit
            vectors, and the trace is exact.

    Returns:
        The estimate; NaN if an image is not finite.
    """
    size = len(like)
    if products >= size:
        unit = torch.zeros_like(like)
        total = 0.0
        for index in range(size):
            unit[index] = 1.0
            total += float(operator(unit)[index])
            unit[index] = 0.0
        return Trace(total, 0.0, size)
    third = products // 3
    source = torch.Generator(like.device).manual_seed(2)
    sketch = torch.stack([operator(row) for row in _signs(third, like, source)])
    if not torch.isfinite(sketch).all():
        return Trace(float("nan"), float("nan"), third)
    basis = torch.linalg.qr(sketch.T).Q.T
    within = sum(float(row @ operator(row)) for row in basis)
    samples = []
    for row in _signs(third, like, source):
        rest = row - (basis @ row) @ basis
        samples.append(float(rest @ operator(rest)))
    beyond = torch.tensor(samples, dtype=torch.float64)
    error = float(beyond.std() / third**0.5)
    return Trace(within + float(beyond.mean()), error, 3 * third)


def _signs(count: int, like: torch.Tensor, source: torch.Generator) -> torch.Tensor:
    """Random signs, shape (count, n), float64."""
    drawn = torch.randint(0, 2, (count, len(like)), generator=source, device=like.device)
    return (2 * drawn - 1).to(like.dtype)
