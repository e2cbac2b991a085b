"""The innermost loops of a pass on the processor, compiled by Numba. No Python object, no lock.

All float32 rows lie in one array, the arena: staged tiles, held rows and scratch. A row is an
offset into it, and whether the offset moves along with the columns. What is done to the rows is
written down in integer tables by `trajfile.engine.fused`; their columns are named there.

Columns are taken in chunks and steps in short blocks, so that a row is formed, and multiplied with
all its partners, while it is in the cache. Of consecutive lags several are multiplied at once: a
register holds a row's coordinates for six or four products. Within a chunk sums are float32; they
are added up in float64, in the order of the chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np

from trajfile.engine.tables import (
    COPY_FROM,
    COPY_TO,
    DIFFERENCE,
    FORM_INTO,
    FORM_KIND,
    FORM_OF,
    FORM_REFERENCE,
    OP_FIRST_LAG,
    OP_LAGS,
    OP_LEFT,
    OP_LEFT_STOP,
    OP_MASK,
    OP_PER_TENSOR,
    OP_RIGHT,
    OP_RIGHT_FIRST,
    OP_RIGHT_STOP,
    OP_START,
    OP_TALL,
    OP_TENSOR_STRIDE,
    OP_TOTAL,
    OP_TOTAL_STRIDE,
    WIDEN,
)

F = TypeVar("F", bound=Callable[..., Any])

# Sums may be reordered; NaN and infinity keep their meaning.
_FAST = {"reassoc", "contract", "nsz"}


def _compiled(function: F) -> F:
    try:
        return cast(F, numba.njit(nogil=True, fastmath=_FAST, cache=True)(function))
    except RuntimeError:  # no place to keep what was compiled
        return cast(F, numba.njit(nogil=True, fastmath=_FAST)(function))


@_compiled
def _square(x, a, n):
    a, n = np.uint64(a), np.uint64(n)
    total = np.float32(0)
    for c in range(n):
        total += x[a + c] * x[a + c]
    return total


@_compiled
def _dot(x, a, b, n):
    if a == b:
        return _square(x, a, n)
    # Unsigned numbers never count from the end; a signed index would have to be looked at.
    a, b, n = np.uint64(a), np.uint64(b), np.uint64(n)
    total = np.float32(0)
    for c in range(n):
        total += x[a + c] * x[b + c]
    return total


@_compiled
def _two_by_six(x, i0, i1, j0, j1, j2, j3, j4, j5, n, out):
    i0, i1, n = np.uint64(i0), np.uint64(i1), np.uint64(n)
    j0, j1, j2 = np.uint64(j0), np.uint64(j1), np.uint64(j2)
    j3, j4, j5 = np.uint64(j3), np.uint64(j4), np.uint64(j5)
    zero = np.float32(0)
    a0 = a1 = a2 = a3 = a4 = a5 = zero
    b0 = b1 = b2 = b3 = b4 = b5 = zero
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


@_compiled
def _three_by_four(x, i0, i1, i2, j0, j1, j2, j3, n, out):
    i0, i1, i2, n = np.uint64(i0), np.uint64(i1), np.uint64(i2), np.uint64(n)
    j0, j1, j2, j3 = np.uint64(j0), np.uint64(j1), np.uint64(j2), np.uint64(j3)
    zero = np.float32(0)
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = zero
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


@_compiled
def _subtract(x, a, b, into, n):
    a, b, into, n = np.uint64(a), np.uint64(b), np.uint64(into), np.uint64(n)
    for c in range(n):
        x[into + c] = x[a + c] - x[b + c]


@_compiled
def _widen(halves, words, a, into, n):
    a, into, n = np.uint64(a), np.uint64(into), np.uint64(n)
    for c in range(n):
        words[into + c] = np.uint32(halves[a + c]) << np.uint32(16)  # bfloat16 is half a float32


@_compiled
def _copy(x, a, into, n):
    a, into, n = np.uint64(a), np.uint64(into), np.uint64(n)
    for c in range(n):
        x[into + c] = x[a + c]


@_compiled
def copy_rows(x, halves, words, base, half, copies, first, stop):
    """Copy columns [first, stop) of whole rows, one after another, to offsets that move along."""
    for k in range(len(copies)):
        source, into = copies[k, COPY_FROM], copies[k, COPY_TO] + first
        if half[source]:
            _widen(halves, words, base[source] + first, into, stop - first)
        else:
            _copy(x, base[source] + first, into, stop - first)


@_compiled
def multiply(
    x,
    halves,
    words,
    base,
    moves,
    half,
    forms,
    formed,
    ops,
    due,
    masks,
    segments,
    first,
    stop,
    chunk,
    scratch,
    totals,
    tensors,
):
    """Form and multiply the rows over columns [first, stop), chunk by chunk.

    Args:
        x: The arena, float32.
        halves: The same memory, uint16.
        words: The same memory, uint32.
        base: Offset of each row; of a bfloat16 row in `halves`.
        moves: Whether the offset moves with the columns; otherwise it counts from `scratch`.
        half: Whether the row is bfloat16.
        forms: Sequences to form, shape (forms, columns of the table).
        formed: How many rows of each are formed by each block of steps, shape (blocks, forms).
        ops: Products, shape (products, columns of the table).
        due: Which row each product has come to after each block, shape (blocks, products).
        masks: For each lag of each product the rows [start, stop) asked for, shape (lags, 2).
        segments: Columns [start, stop) of each tensor, increasing.
        first: First column.
        stop: Column after the last.
        chunk: Most columns at a time.
        scratch: Where the scratch memory starts in `x`.
        totals: Added to, float64.
        tensors: Added to, float64, shape (segments, products per tensor).
    """
    out = np.empty(12, np.float32)
    address = np.empty(len(base), np.int64)
    low = 0
    for at in range(first, stop, chunk):
        end = min(at + chunk, stop)
        n = end - at
        for r in range(len(base)):
            address[r] = base[r] + (at if moves[r] else scratch)
        while segments[low, 1] <= at:
            low += 1
        for block in range(len(formed)):
            for f in range(len(forms)):
                begin = formed[block - 1, f] if block else 0
                kind, into, of = forms[f, FORM_KIND], forms[f, FORM_INTO], forms[f, FORM_OF]
                for r in range(begin, formed[block, f]):
                    a, target = address[of + r], address[into + r]
                    if kind == WIDEN:
                        if half[of + r]:
                            _widen(halves, words, a, target, n)
                        else:
                            _copy(x, a, target, n)
                    elif kind == DIFFERENCE:
                        _subtract(x, address[of + r + 1], a, target, n)
                    else:
                        _subtract(x, a, address[forms[f, FORM_REFERENCE]], target, n)
            for k in range(len(ops)):
                begin = due[block - 1, k] if block else ops[k, OP_START]
                until = due[block, k]
                if until <= begin:
                    continue
                left, right = ops[k, OP_LEFT], ops[k, OP_RIGHT]
                lag, lags = ops[k, OP_FIRST_LAG], ops[k, OP_LAGS]
                total, stride = ops[k, OP_TOTAL], ops[k, OP_TOTAL_STRIDE]
                if lags == 1:
                    own = ops[k, OP_PER_TENSOR]
                    for i in range(begin, until):
                        a, b = address[left + i], address[right + i + lag]
                        if own < 0:
                            totals[total + i * stride] += np.float64(_dot(x, a, b, n))
                            continue
                        s = low
                        while s < len(segments) and segments[s, 0] < end:
                            c = max(segments[s, 0], at)
                            d = min(segments[s, 1], end)
                            value = np.float64(_dot(x, a + c - at, b + c - at, d - c))
                            totals[total + i * stride] += value
                            tensors[s, own + i * ops[k, OP_TENSOR_STRIDE]] += value
                            s += 1
                    continue
                tall = ops[k, OP_TALL]
                rows, wide = (3, 4) if tall else (2, 6)
                last_i = ops[k, OP_LEFT_STOP] - 1
                first_j, last_j = ops[k, OP_RIGHT_FIRST], ops[k, OP_RIGHT_STOP] - 1
                mask = ops[k, OP_MASK]
                full_from, full_to = masks[mask, 0], masks[mask, 1]
                for m in range(1, lags):
                    full_from = max(full_from, masks[mask + m, 0])
                    full_to = min(full_to, masks[mask + m, 1])
                for i in range(begin, until, rows):
                    after_j = min(i + rows - 1 + lag + lags, last_j + 1)
                    # In place of rows that are not there, the nearest; it is left out below.
                    i0, i1 = address[left + min(i, last_i)], address[left + min(i + 1, last_i)]
                    i2 = address[left + min(i + 2, last_i)] if tall else i1
                    whole = full_from <= i and i + rows <= min(full_to, until)
                    for j in range(max(i + lag, first_j), after_j, wide):
                        j0 = address[right + min(j, last_j)]
                        j1 = address[right + min(j + 1, last_j)]
                        j2 = address[right + min(j + 2, last_j)]
                        j3 = address[right + min(j + 3, last_j)]
                        if tall:
                            _three_by_four(x, i0, i1, i2, j0, j1, j2, j3, n, out)
                        else:
                            j4 = address[right + min(j + 4, last_j)]
                            j5 = address[right + min(j + 5, last_j)]
                            _two_by_six(x, i0, i1, j0, j1, j2, j3, j4, j5, n, out)
                        for u in range(rows):
                            if i + u >= until:
                                break
                            low_m = j - i - u - lag
                            cell = total + (i + u) * stride + low_m
                            if whole:
                                for v in range(max(0, -low_m), min(wide, lags - low_m)):
                                    totals[cell + v] += np.float64(out[u * wide + v])
                                continue
                            for v in range(max(0, -low_m), min(wide, lags - low_m)):
                                m = mask + low_m + v
                                if masks[m, 0] <= i + u < masks[m, 1]:
                                    totals[cell + v] += np.float64(out[u * wide + v])
