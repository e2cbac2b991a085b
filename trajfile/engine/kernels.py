"""Working through a program on the processor, compiled by Numba. No Python object, no lock.

All float32 rows lie in one array, the arena: staged tiles, held rows and scratch. A row is an
offset into it, and whether the offset moves along with the columns. What is done to the rows is
written down in a table of instructions by `trajfile.engine.program`.

Columns are taken in chunks, so that a row is formed, and multiplied with all its partners, while it
is in the cache. Within a chunk sums are float32; they are added up in float64, in the order of the
chunks.
"""

from __future__ import annotations

import numpy as np

from trajfile.containers.compiling import compiler
from trajfile.engine import loops, tables
from trajfile.engine.loops import (
    FAST,
    advance,
    advance_two,
    copy,
    dot,
    one_by_six,
    subtract,
    three_by_four,
    two_by_six,
    widen,
)
from trajfile.engine.tables import (
    ADVANCE,
    ADVANCE_SUMS,
    ADVANCE_TWO,
    BAND,
    BAND_FIRST_LAG,
    BAND_LAGS,
    BAND_LEFT,
    BAND_LEFT_STOP,
    BAND_MASK,
    BAND_RIGHT,
    BAND_RIGHT_FIRST,
    BAND_RIGHT_STOP,
    BAND_START,
    BAND_STOP,
    BAND_STRIDE,
    BAND_TOTAL,
    COPY_FROM,
    COPY_TO,
    DOT,
    KIND,
    MOST_TENSORS,
    ONE_BY_SIX,
    ROWS,
    SUBTRACT,
    SUMS,
    TENSORS,
    TWO_BY_SIX,
    WIDEN,
)

compiled = compiler(__file__, loops.__file__, tables.__file__, fastmath=FAST)


@compiled
def copy_rows(x, halves, words, base, half, copies, first, stop):
    """Copy columns [first, stop) of whole rows, one after another, to offsets that move along."""
    for k in range(len(copies)):
        source, into = copies[k, COPY_FROM], copies[k, COPY_TO] + first
        if half[source]:
            widen(halves, words, base[source] + first, into, stop - first)
        else:
            copy(x, base[source] + first, into, stop - first)


@compiled
def _add(out, count, code, k, totals):
    """Add the sums of an instruction to the totals."""
    for u in range(count):
        if code[k, SUMS + u] >= 0:
            totals[code[k, SUMS + u]] += np.float64(out[u])


@compiled
def _lies(base, moves, shift, row):
    """Where a row begins."""
    return base[row] + shift[moves[row]]


@compiled
def _multiply_band(x, base, moves, shift, band, masks, n, out, totals):
    """Multiply three rows with four, again and again, until a band is covered."""
    left, right = band[BAND_LEFT], band[BAND_RIGHT]
    last_i = band[BAND_LEFT_STOP] - 1
    first_j, last_j = band[BAND_RIGHT_FIRST], band[BAND_RIGHT_STOP] - 1
    until, lag, lags = band[BAND_STOP], band[BAND_FIRST_LAG], band[BAND_LAGS]
    total, stride, mask = band[BAND_TOTAL], band[BAND_STRIDE], band[BAND_MASK]
    full_from, full_to = masks[mask, 0], masks[mask, 1]
    for m in range(1, lags):
        full_from = max(full_from, masks[mask + m, 0])
        full_to = min(full_to, masks[mask + m, 1])
    for i in range(band[BAND_START], until, 3):
        # In place of rows that are not there, the nearest; it is left out below.
        i0 = _lies(base, moves, shift, left + min(i, last_i))
        i1 = _lies(base, moves, shift, left + min(i + 1, last_i))
        i2 = _lies(base, moves, shift, left + min(i + 2, last_i))
        whole = full_from <= i and i + 3 <= min(full_to, until)
        for j in range(max(i + lag, first_j), min(i + 2 + lag + lags, last_j + 1), 4):
            j0 = _lies(base, moves, shift, right + min(j, last_j))
            j1 = _lies(base, moves, shift, right + min(j + 1, last_j))
            j2 = _lies(base, moves, shift, right + min(j + 2, last_j))
            j3 = _lies(base, moves, shift, right + min(j + 3, last_j))
            three_by_four(x, i0, i1, i2, j0, j1, j2, j3, n, out)
            for u in range(min(3, until - i)):
                low = j - i - u - lag
                cell = total + (i + u) * stride + low
                for v in range(max(0, -low), min(4, lags - low)):
                    m = mask + low + v
                    if whole or masks[m, 0] <= i + u < masks[m, 1]:
                        totals[cell + v] += np.float64(out[u * 4 + v])


@compiled
def multiply(
    x,
    halves,
    words,
    base,
    moves,
    half,
    code,
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
        code: The instructions, int32, shape (instructions, columns of the table).
        masks: For each lag of each band the rows [start, stop) asked for, shape (lags, 2).
        segments: Columns [start, stop) of each tensor, increasing.
        first: First column.
        stop: Column after the last.
        chunk: Most columns at a time.
        scratch: Where the scratch memory starts in `x`.
        totals: Added to, float64.
        tensors: Added to, float64, shape (segments, products per tensor).
    """
    out = np.empty(12, np.float32)
    shift = np.empty(2, np.int64)
    shift[0] = scratch
    apart = tensors.shape[1] > 0
    low = 0
    for at in range(first, stop, chunk):
        end = min(at + chunk, stop)
        n = end - at
        shift[1] = at
        while segments[low, 1] <= at:
            low += 1
        for k in range(len(code)):
            kind = code[k, KIND]
            if kind == BAND:
                _multiply_band(x, base, moves, shift, code[k], masks, n, out, totals)
                continue
            r0 = _lies(base, moves, shift, code[k, ROWS])
            r1 = _lies(base, moves, shift, code[k, ROWS + 1])
            if kind == WIDEN:
                if half[code[k, ROWS]]:
                    widen(halves, words, r0, r1, n)
                else:
                    copy(x, r0, r1, n)
                continue
            r2 = _lies(base, moves, shift, code[k, ROWS + 2])
            if kind == SUBTRACT:
                subtract(x, r0, r1, r2, n)
                continue
            r3 = _lies(base, moves, shift, code[k, ROWS + 3])
            r4 = _lies(base, moves, shift, code[k, ROWS + 4])
            r5 = _lies(base, moves, shift, code[k, ROWS + 5])
            r6 = _lies(base, moves, shift, code[k, ROWS + 6])
            r7 = _lies(base, moves, shift, code[k, ROWS + 7])
            if kind == TWO_BY_SIX:
                two_by_six(x, r0, r1, r2, r3, r4, r5, r6, r7, n, out)
                _add(out, 12, code, k, totals)
                continue
            if kind == ONE_BY_SIX:
                one_by_six(x, r0, r1, r2, r3, r4, r5, r6, n, out)
                _add(out, 6, code, k, totals)
                continue
            count = 1 if kind == DOT else ADVANCE_SUMS if kind == ADVANCE else MOST_TENSORS
            s, o, m = low, 0, n
            while o < n and s < len(segments):
                if apart:  # tensor by tensor
                    o = max(segments[s, 0] - at, 0)
                    m = min(segments[s, 1] - at, n) - o
                if kind == ADVANCE_TWO:
                    p0, p1, p2 = r5 + o, r6 + o, r7 + o
                    advance_two(x, r0 + o, r1 + o, r2 + o, r3 + o, r4 + o, p0, p1, p2, m, out)
                elif kind == ADVANCE:
                    advance(x, r0 + o, r1 + o, r2 + o, r3 + o, r4 + o, m, out)
                else:
                    out[0] = dot(x, r0 + o, r1 + o, m)
                _add(out, count, code, k, totals)
                for u in range(count if apart else 0):
                    if code[k, TENSORS + u] >= 0:
                        tensors[s, code[k, TENSORS + u]] += np.float64(out[u])
                s, o = s + 1, o + m
