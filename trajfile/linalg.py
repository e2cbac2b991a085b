"""Small float64 algebra on inner products, written so that it does not cancel."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def cosine(aa: ArrayLike, bb: ArrayLike, ab: ArrayLike) -> Float:
    """Cosine of the angle between a and b from their inner products.

    Args:
        aa: ||a||^2.
        bb: ||b||^2.
        ab: <a, b>.

    Returns:
        <a,b> / (||a|| ||b||), clipped to [-1, 1]; NaN where a norm is zero or not finite.
    """
    aa, bb, ab = (np.asarray(x, np.float64) for x in (aa, bb, ab))
    with np.errstate(all="ignore"):
        value = ab / (np.sqrt(aa) * np.sqrt(bb))
    return np.where((aa > 0) & (bb > 0), np.clip(value, -1.0, 1.0), np.nan)


def angle(aa: ArrayLike, bb: ArrayLike, ab: ArrayLike) -> Float:
    """Angle between a and b in radians, by atan2 and never by arccos.

    arccos loses half the digits near 0 and pi; atan2 of the sine and cosine parts does not,
    though the sine part itself is only as good as the inner products. For consecutive snapshots
    use `turn`, which starts from their difference.

    Args:
        aa: ||a||^2.
        bb: ||b||^2.
        ab: <a, b>.

    Returns:
        Radians in [0, pi]; NaN where a norm is zero or not finite.
    """
    aa, bb, ab = (np.asarray(x, np.float64) for x in (aa, bb, ab))
    with np.errstate(all="ignore"):
        sine = np.sqrt(np.maximum(aa * bb - ab * ab, 0.0))
        value = np.arctan2(sine, ab)
    return np.where((aa > 0) & (bb > 0), value, np.nan)


def turn(aa: ArrayLike, ad: ArrayLike, dd: ArrayLike) -> tuple[Float, Float]:
    """Angle between a and b = a + d, and 1 - cos of it, from inner products with d.

    With d's component across a, ||d_perp||^2 = <d,d> - <a,d>^2/<a,a>, the angle is
    atan2(||a|| ||d_perp||, <a,a> + <a,d>). Nothing of the size of ||a||^2 is subtracted, so
    a turn of 1e-7 keeps its digits; 1 - cos = 2 sin^2(angle/2).

    Args:
        aa: ||a||^2.
        ad: <a, d>.
        dd: ||d||^2.

    Returns:
        The angle in radians and 1 - cos(angle); NaN where a or b is zero or not finite.
    """
    aa, ad, dd = (np.asarray(x, np.float64) for x in (aa, ad, dd))
    with np.errstate(all="ignore"):
        across = np.sqrt(np.maximum(aa * dd - ad * ad, 0.0))
        theta = np.arctan2(across, aa + ad)
        bb = aa + 2 * ad + dd
    theta = np.where((aa > 0) & (bb > 0), theta, np.nan)
    return theta, 2 * np.sin(theta / 2) ** 2
