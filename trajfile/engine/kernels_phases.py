"""Reading, verifying and multiplying pieces of a tile, compiled: no Python between their phases.

To be imported only where pieces can be read (`trajfile.containers.stored.compiled_reading`).
"""

from __future__ import annotations

import time
from typing import Any

import numba
import numpy as np

from trajfile.containers import kernels as checksums
from trajfile.containers import kernels_read, stored
from trajfile.containers.compiling import compiler
from trajfile.containers.kernels_read import add, fetch
from trajfile.engine import kernels, loops, tables
from trajfile.engine.kernels import copy_rows, multiply

# By name, not by address, so that what was compiled can be kept.
_clock_gettime: Any = numba.types.ExternalFunction(
    "clock_gettime", numba.intc(numba.intc, numba.types.uintp)
)
_CLOCK = time.CLOCK_MONOTONIC

compiled = compiler(
    *(__file__, kernels.__file__, loops.__file__, tables.__file__),
    *(kernels_read.__file__, checksums.__file__, stored.__file__),
)


@compiled
def _now(timed, stamp):
    """Seconds on the clock, if they are wanted."""
    if not timed:
        return 0.0
    _clock_gettime(np.int32(_CLOCK), np.uint64(stamp.ctypes.data))
    return stamp[0] + stamp[1] / 1e9


@compiled
def work_off(
    arena,
    table,
    places,
    reads,
    read_cuts,
    sums,
    rows,
    code,
    code_cuts,
    masks,
    segments,
    columns,
    width,
    phases,
    chunk,
    scratch,
    totals,
    tensors,
    timed,
):
    """Work off some phases of one piece after another.

    Args:
        arena: The arena as float32, uint8, uint16 and uint32.
        table: The blocks to read from, see `trajfile.containers.kernels_read`.
        places: Addresses of their chunks.
        reads: What to read, all phases one after another.
        read_cuts: Where in `reads` each phase begins, and the end.
        sums: For the checksums, both of every chunk; added to.
        rows: See `trajfile.engine.places.Places`: `base`, `within`, `moves`, `half`, `before` and
            `after`.
        code: The instructions.
        code_cuts: Where in `code` each phase begins, and the end.
        masks: As in `multiply`.
        segments: As in `multiply`.
        columns: The columns [first, stop) of all pieces.
        width: Columns of a piece, the last one perhaps fewer.
        phases: The phases [first, stop) to work off.
        chunk: As in `multiply`.
        scratch: As in `multiply`; a frame lies where it begins.
        totals: As in `multiply`.
        tensors: As in `multiply`.
        timed: Whether to look at the clock.

    Returns:
        Whether all could be read, and the seconds that went into reading and verifying.
    """
    x, memory, halves, words = arena
    base, within, moves, half, before, after = rows
    stamp = np.empty(2, np.int64)
    reading = verifying = 0.0
    count, begin = len(code_cuts) - 1, 4 * scratch
    lies = np.empty_like(base)
    for first in range(columns[0], columns[1], width):
        stop = min(first + width, columns[1])
        for row in range(len(base)):  # any column added to it leads to its number
            lies[row] = base[row] + (within[row] * scratch - first if within[row] else 0)
        for phase in range(phases[0], phases[1]):
            some = reads[read_cuts[phase] : read_cuts[phase + 1]]
            start = _now(timed, stamp)
            if not fetch(table, places, some, first, stop, memory, begin):
                return False, reading, verifying
            middle = _now(timed, stamp)
            add(table, some, first, stop, halves, begin, sums[0], sums[1])
            reading, verifying = reading + middle - start, verifying + _now(timed, stamp) - middle
            low, high = code_cuts[phase], code_cuts[phase + 1]
            # Reference rows are there when the first instructions are due.
            if low == 0 and (high > 0 or phase + 1 == count):
                copy_rows(x, halves, words, lies, half, before, first, stop)
            if low < high:
                multiply(
                    x,
                    halves,
                    words,
                    lies,
                    moves,
                    half,
                    code[low:high],
                    masks,
                    segments,
                    first,
                    stop,
                    chunk,
                    scratch,
                    totals,
                    tensors,
                )
            if phase + 1 == count:
                copy_rows(x, halves, words, lies, half, after, first, stop)
    return True, reading, verifying
