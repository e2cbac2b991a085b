"""A program in phases: rows are read when they are wanted, and given up when they no longer are.

A piece of a tile that is read by who multiplies it is to stay in the cache. The fewer of its rows
lie there at a time, the more columns there is room for, and the more of a row one call of the
system reads. So rows are read a few steps at a time, what can be done with them by then is done,
and rows to come take the places of those that nothing wants any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from trajfile.engine.blocks import Block
from trajfile.engine.plan import Plan
from trajfile.engine.program import Program
from trajfile.engine.rings import uses
from trajfile.engine.rows import Index
from trajfile.engine.schedule import carried_rows

#: Rows that are read in a phase: with what is formed of them few enough to stay in the cache, and
#: so many that what a phase costs by itself is little.
PHASE_ROWS = 32


@dataclass(frozen=True, eq=False)
class Phases:
    """A program in phases.

    Attributes:
        order: What is read, phase after phase: shape (rows, 2), the number of a stream and which of
            its staged rows.
        rows: How many each phase reads, the last one perhaps fewer.
        cuts: Phase p carries out instructions [cuts[p], cuts[p + 1]). Reference rows are there
            from the first phase on that has any.
        slots: For each stream, how many of its rows are held at a time.
        slot: For each stream and each of its staged rows, where among those.
    """

    order: Index
    rows: int
    cuts: Index
    slots: Mapping[str, int]
    slot: Mapping[str, Index]


def staged_rows(plan: Plan, block: Block, program: Program) -> Iterator[tuple[str, Index, Index]]:
    """Where a program's recorded rows are found among those that a block reads.

    Args:
        plan: The plan.
        block: The block.
        program: What is done during it.

    Yields:
        For each track its stream, its rows in the table of rows that the block reads, and which
        of the stream's staged rows they are.
    """
    for track, (first, _) in program.tracks.items():
        begin = first + carried_rows(plan, block, track)
        copies = [copy for copy in block.copies[track] if not copy.held]
        if copies:
            yield (
                plan.rows.tracks[track].stream,
                np.concatenate([begin + copy.into + np.arange(copy.rows) for copy in copies]),
                np.concatenate(
                    [copy.start + copy.stride * np.arange(copy.rows) for copy in copies]
                ),
            )


def cut_phases(plan: Plan, block: Block, program: Program, streams: Iterable[str]) -> Phases:
    """Cut a program into phases.

    Args:
        plan: The plan.
        block: The block that the program is for.
        program: The program.
        streams: The streams of which rows are read, whether the program wants them or not.

    Returns:
        The phases.
    """
    here = sorted(streams)
    counts = [len(block.staged[stream]) for stream in here]
    begin = dict(zip(here, np.cumsum([0, *counts[:-1]]), strict=True))
    end = len(program.code)
    first, last = np.full(sum(counts), end), np.full(sum(counts), -1)
    first_use, last_use = uses(program.code, program.rows)
    for track, (row, count) in program.tracks.items():
        kept = min(plan.carries[track], count)  # carried on when all is done
        last_use[row + count - kept : row + count] = end
    for stream, rows, staged in staged_rows(plan, block, program):
        np.minimum.at(first, begin[stream] + staged, first_use[rows])
        np.maximum.at(last, begin[stream] + staged, last_use[rows])
    for reference, row in enumerate(block.references):
        stream, _ = plan.rows.references[reference]
        if stream in begin:
            wanted = 0 if program.copied[reference] else last_use[reference]
            first[begin[stream] + row] = -1  # before the first instruction
            last[begin[stream] + row] = max(wanted, last[begin[stream] + row])
    for stream, count in zip(here, counts, strict=True):
        own = slice(begin[stream], begin[stream] + count)
        _fill(first[own], end)
    order = np.argsort(first, kind="stable")
    starts = np.arange(0, max(1, len(order)), PHASE_ROWS)
    cuts = np.concatenate([[0], np.maximum(first[order[starts[1:]]], 0), [end]]).astype(np.int64)
    phase = np.empty(len(order), np.int64)
    phase[order] = np.arange(len(order)) // PHASE_ROWS
    over = np.maximum(phase, np.searchsorted(cuts[1:-1], last, "right"))
    stream_of = np.repeat(np.arange(len(here)), counts)
    row_of = np.concatenate([np.arange(count) for count in counts])
    numbers = np.array([block.numbers[stream] for stream in here])
    reads = np.stack([numbers[stream_of[order]], row_of[order]], axis=1)
    slots, slot = {}, {}
    for stream, count in zip(here, counts, strict=True):
        own = slice(begin[stream], begin[stream] + count)
        slot[stream], slots[stream] = _slots(phase[own], over[own], len(starts))
    return Phases(reads, PHASE_ROWS, cuts, slots, slot)


def _fill(first: Index, end: int) -> None:
    """Let rows that nothing wants be read with the one before them; at first if none is wanted."""
    wanted = np.flatnonzero(first < end)
    if not len(wanted):
        first[:] = 0
        return
    before = np.maximum(np.searchsorted(wanted, np.arange(len(first)), "right") - 1, 0)
    first[:] = first[wanted[before]]


def _slots(phase: Index, over: Index, phases: int) -> tuple[Index, int]:
    """Give each row a place from the phase in which it is read to the last that wants it."""
    slot = np.empty(len(phase), np.int64)
    read = np.argsort(phase, kind="stable")
    done = np.argsort(over, kind="stable")
    read_until = np.searchsorted(phase[read], np.arange(phases), "right")
    done_until = np.searchsorted(over[done], np.arange(phases), "right")
    free: list[int] = []
    count = begun = ended = 0
    for now in range(phases):
        some = read[begun : read_until[now]]
        more = max(0, len(some) - len(free))
        free += range(count, count + more)
        count += more
        slot[some] = free[: len(some)]
        del free[: len(some)]
        free += slot[done[ended : done_until[now]]].tolist()
        begun, ended = int(read_until[now]), int(done_until[now])
    return slot, count
