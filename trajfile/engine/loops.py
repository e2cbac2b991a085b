"""The innermost loops of a pass on the processor: what is done to a few rows of a few columns.

All rows lie in one float32 array and are named by their offsets. A loop forms rows, multiplies
them, or both, so that each number is loaded once for as many products as the registers hold sums.
Sums are float32; whoever calls adds them up in float64.
"""

from __future__ import annotations

import numpy as np

from trajfile.containers.compiling import compiler

#: Sums may be reordered; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "nsz"}

compiled = compiler(__file__, fastmath=FAST)

# Offsets are made unsigned everywhere: a signed index would have to be looked at, whether it counts
# from the end.


@compiled
def widen(halves, words, a, into, n):
    """Form float32 from bfloat16, which is half of it."""
    a, into, n = np.uint64(a), np.uint64(into), np.uint64(n)
    for c in range(n):
        words[into + c] = np.uint32(halves[a + c]) << np.uint32(16)


@compiled
def copy(x, a, into, n):
    """Copy a row."""
    a, into, n = np.uint64(a), np.uint64(into), np.uint64(n)
    for c in range(n):
        x[into + c] = x[a + c]


@compiled
def subtract(x, a, b, into, n):
    """Form a - b."""
    a, b, into, n = np.uint64(a), np.uint64(b), np.uint64(into), np.uint64(n)
    for c in range(n):
        x[into + c] = x[a + c] - x[b + c]


@compiled
def square(x, a, n):
    """<a, a>."""
    a, n = np.uint64(a), np.uint64(n)
    total = np.float32(0)
    for c in range(n):
        total += x[a + c] * x[a + c]
    return total


@compiled
def dot(x, a, b, n):
    """<a, b>."""
    if a == b:
        return square(x, a, n)
    a, b, n = np.uint64(a), np.uint64(b), np.uint64(n)
    total = np.float32(0)
    for c in range(n):
        total += x[a + c] * x[b + c]
    return total


@compiled
def advance(x, now, following, first, second, into, n, out):
    """Form the difference to the following row, and the products that `ADVANCED` names."""
    now, following, into = np.uint64(now), np.uint64(following), np.uint64(into)
    first, second, n = np.uint64(first), np.uint64(second), np.uint64(n)
    vv = dv = dd = aa = ad = bb = bd = np.float32(0)
    for c in range(n):
        v = x[now + c]
        d = x[following + c] - v
        x[into + c] = d
        a, b = v - x[first + c], v - x[second + c]
        vv += v * v
        dv += d * v
        dd += d * d
        aa += a * a
        ad += a * d
        bb += b * b
        bd += b * d
    out[0], out[1], out[2], out[3], out[4], out[5], out[6] = vv, dv, dd, aa, ad, bb, bd


@compiled
def advance_two(x, now, following, first, second, into, other, other_following, other_into, n, out):
    """The same for two sequences side by side."""
    now, following, into = np.uint64(now), np.uint64(following), np.uint64(into)
    first, second, n = np.uint64(first), np.uint64(second), np.uint64(n)
    other, other_following = np.uint64(other), np.uint64(other_following)
    other_into = np.uint64(other_into)
    vv = dv = dd = aa = ad = bb = bd = ww = vw = de = np.float32(0)
    for c in range(n):
        v, w = x[now + c], x[other + c]
        d, e = x[following + c] - v, x[other_following + c] - w
        x[into + c] = d
        x[other_into + c] = e
        a, b = v - x[first + c], v - x[second + c]
        vv += v * v
        dv += d * v
        dd += d * d
        aa += a * a
        ad += a * d
        bb += b * b
        bd += b * d
        ww += w * w
        vw += v * w
        de += d * e
    out[0], out[1], out[2], out[3], out[4], out[5], out[6] = vv, dv, dd, aa, ad, bb, bd
    out[7], out[8], out[9] = ww, vw, de


@compiled
def one_by_six(x, i, j0, j1, j2, j3, j4, j5, n, out):
    """The products of a row with six."""
    i, n = np.uint64(i), np.uint64(n)
    j0, j1, j2 = np.uint64(j0), np.uint64(j1), np.uint64(j2)
    j3, j4, j5 = np.uint64(j3), np.uint64(j4), np.uint64(j5)
    a0 = a1 = a2 = a3 = a4 = a5 = np.float32(0)
    for c in range(n):
        p = x[i + c]
        a0 += p * x[j0 + c]
        a1 += p * x[j1 + c]
        a2 += p * x[j2 + c]
        a3 += p * x[j3 + c]
        a4 += p * x[j4 + c]
        a5 += p * x[j5 + c]
    out[0], out[1], out[2], out[3], out[4], out[5] = a0, a1, a2, a3, a4, a5


@compiled
def two_by_six(x, i0, i1, j0, j1, j2, j3, j4, j5, n, out):
    """The products of two rows with six."""
    i0, i1, n = np.uint64(i0), np.uint64(i1), np.uint64(n)
    j0, j1, j2 = np.uint64(j0), np.uint64(j1), np.uint64(j2)
    j3, j4, j5 = np.uint64(j3), np.uint64(j4), np.uint64(j5)
    a0 = a1 = a2 = a3 = a4 = a5 = np.float32(0)
    b0 = b1 = b2 = b3 = b4 = b5 = np.float32(0)
    for c in range(n):
        p, q = x[i0 + c], x[i1 + c]
        r = x[j0 + c]
        a0 += p * r
        b0 += q * r
        r = x[j1 + c]
        a1 += p * r
        b1 += q * r
        r = x[j2 + c]
        a2 += p * r
        b2 += q * r
        r = x[j3 + c]
        a3 += p * r
        b3 += q * r
        r = x[j4 + c]
        a4 += p * r
        b4 += q * r
        r = x[j5 + c]
        a5 += p * r
        b5 += q * r
    out[0], out[1], out[2], out[3], out[4], out[5] = a0, a1, a2, a3, a4, a5
    out[6], out[7], out[8], out[9], out[10], out[11] = b0, b1, b2, b3, b4, b5


@compiled
def three_by_four(x, i0, i1, i2, j0, j1, j2, j3, n, out):
    """The products of three rows with four."""
    i0, i1, i2, n = np.uint64(i0), np.uint64(i1), np.uint64(i2), np.uint64(n)
    j0, j1, j2, j3 = np.uint64(j0), np.uint64(j1), np.uint64(j2), np.uint64(j3)
    a0 = a1 = a2 = a3 = np.float32(0)
    b0 = b1 = b2 = b3 = np.float32(0)
    c0 = c1 = c2 = c3 = np.float32(0)
    for c in range(n):
        p, q, s = x[i0 + c], x[i1 + c], x[i2 + c]
        r = x[j0 + c]
        a0 += p * r
        b0 += q * r
        c0 += s * r
        r = x[j1 + c]
        a1 += p * r
        b1 += q * r
        c1 += s * r
        r = x[j2 + c]
        a2 += p * r
        b2 += q * r
        c2 += s * r
        r = x[j3 + c]
        a3 += p * r
        b3 += q * r
        c3 += s * r
    out[0], out[1], out[2], out[3] = a0, a1, a2, a3
    out[4], out[5], out[6], out[7] = b0, b1, b2, b3
    out[8], out[9], out[10], out[11] = c0, c1, c2, c3
