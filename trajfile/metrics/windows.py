"""How many independent values a correlated series is worth.

Consecutive steps of a run resemble each other, so n of them are worth fewer independent ones:
n/τ *effective windows*, with the integrated autocorrelation time τ = 1 + 2 Σ_k ρ_k. The sum is cut
where the sum of two neighbouring ρ_k first is no longer positive, and its terms are kept from
rising (the initial monotone sequence of Geyer 1992). Subtracting the sample mean makes every ρ_k
too small by τ/n, which is put back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Largest share of the variance that the sample mean is taken to have absorbed.
_MOST_ABSORBED = 0.5
#: How often τ and the correction that needs it are put into each other.
_ROUNDS = 4
#: Sums of two ρ_k up to this are zero: what a Fourier transform makes of it is no more.
_ZERO = 1e-12
#: Of longer series the first few products are summed one by one: mostly no others are needed.
_LONG, _FEW = 512, 16
#: Numbers that a Fourier transform is taken of at once.
_TOGETHER = 1 << 20


def windows_of(centred: Float, counts: Counts, constant: Mask) -> Float:
    """How many independent values each of n correlated series is worth: its length over τ.

    Args:
        centred: The series in order of time, less their means, float64, shape (n, m); zeros behind
            the shorter ones.
        counts: Their lengths, shape (n,).
        constant: Which of them have one value alone, shape (n,).

    Returns:
        float64, shape (n,), each between 0 and its length. A series that alternates counts as
        independent (τ = 1), so that an interval is never too narrow on its account; so does a
        constant one.
    """
    windows = counts.astype(np.float64)
    # No BLAS: its threads, once woken, take the processor from those that read and multiply.
    squares = (centred * centred).sum(axis=1)
    judged = (counts >= 3) & ~constant & (squares > 0)
    # Of the others some alternate, or their spread is one of rounding errors.
    judged &= (centred[:, 1:] * centred[:, :-1]).sum(axis=1) > 0
    if judged.all() and len(judged):
        return windows / _times(centred, squares, counts)
    if judged.any():
        windows[judged] /= _times(centred[judged], squares[judged], counts[judged])
    return windows


def _times(centred: Float, squares: Float, counts: Counts) -> Float:
    """τ of each of n series, the mean taken off."""
    if centred.shape[1] <= _LONG:
        return _summed(_products(centred) / squares[:, None], counts)[0]
    stop = centred.shape[1]
    near = np.stack(
        [(centred[:, lag:] * centred[:, : stop - lag]).sum(axis=1) for lag in range(_FEW)], axis=1
    )
    times, cut = _summed(near / squares[:, None], counts)
    for at in np.flatnonzero(~cut):
        all_of = _products(centred[at : at + 1]) / squares[at]
        times[at] = _summed(all_of, counts[at : at + 1])[0][0]
    return times


def _products(centred: Float) -> Float:
    """The sums of the products at each lag from 0 on, shape (n, m)."""
    n, m = centred.shape
    # A length of large prime factors takes ten times as long.
    whole = 1 << (2 * m - 1).bit_length()
    size = next(part for part in (5 * whole // 8, 3 * whole // 4, whole) if part >= 2 * m - 1)
    found, some = np.empty((n, m)), max(1, _TOGETHER // size)
    for start in range(0, n, some):
        spectrum = np.fft.rfft(centred[start : start + some], size)
        found[start : start + some] = np.fft.irfft(spectrum * spectrum.conj(), size)[:, :m]
    return found


def _summed(raw: Float, counts: Counts) -> tuple[Float, Mask]:
    """τ from the products at the first lags over that at none, and whether its sum was cut."""
    n, lag = counts[:, None].astype(np.float64), np.arange(raw.shape[1] // 2 * 2)
    raw = raw[:, : len(lag)]
    positive = (raw[:, ::2] + raw[:, 1::2] > _ZERO) & (lag[1::2] < n)
    taken = np.logical_and.accumulate(positive, axis=1)
    most = int(taken.sum(axis=1).max())
    raw, lag, taken = raw[:, : 2 * most], lag[: 2 * most], taken[:, :most]
    # Fewer products stand behind a long lag.
    fading = np.maximum(1 - lag / n, 0.5)
    seen, unseen = raw / fading, (1 - raw) / fading
    tau = np.ones((len(raw), 1))
    for _ in range(_ROUNDS):
        rho = np.minimum(seen + np.minimum(tau / n, _MOST_ABSORBED) * unseen, 1.0)
        pairs = np.minimum.accumulate(rho[:, ::2] + rho[:, 1::2], axis=1)
        tau = 2 * (pairs * taken).sum(axis=1, keepdims=True) - 1
        tau = np.minimum(np.maximum(tau, 1.0), n)
    return tau[:, 0], ~np.asarray(positive.all(axis=1))
