"""Time blocks: the ranges of steps in which a strip is read when its rows do not all fit.

Every stream contributes its rows of the same range of steps. A product between rows of two blocks
is formed when the later of them arrives; until then the earlier one is carried. Each product is
formed exactly once, each row read exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from trajfile.engine.header import Header
from trajfile.engine.rows import Index, Pair, RowNeeds
from trajfile.schema import GRADIENT_SAMPLES

_FEW_COPIES = 4


@dataclass(frozen=True)
class Copy:
    """Consecutive rows of a track and where they are found.

    Attributes:
        into: First row of the track's new rows.
        rows: How many.
        start: First staged row; of a held reference, its index in `RowNeeds.references`.
        stride: Distance between the staged rows.
        held: Whether the row is a reference held since the first block.
    """

    into: int
    rows: int
    start: int
    stride: int = 1
    held: bool = False


@dataclass(frozen=True, eq=False)
class Block:
    """One time block, the same for every strip.

    Attributes:
        staged: For each stream the positions of the rows to read, increasing.
        before: For each track how many of its rows came in earlier blocks.
        upto: For each track how many of its rows have come when this block is in.
        copies: For each track where its new rows are found.
        gathers: For each track, another whose new rows include its own and which of them they
            are, where that beats copying row by row; otherwise None.
        samples: (index of the sample step, first staged row, one past the last).
        references: For each reference row its staged row, in the first block; otherwise empty.
    """

    staged: dict[str, Index]
    before: tuple[int, ...]
    upto: tuple[int, ...]
    copies: tuple[tuple[Copy, ...], ...]
    gathers: tuple[tuple[int, Index] | None, ...]
    samples: tuple[tuple[int, int, int], ...]
    references: tuple[int, ...]

    @property
    def numbers(self) -> dict[str, int]:
        """For each stream the number by which tables of what is read name it."""
        return {stream: number for number, stream in enumerate(self.staged)}

    def new_products(self, rows: RowNeeds, pair: Pair, lag: int) -> tuple[int, int]:
        """The left rows [start, stop) whose products at a lag are formed in this block."""
        left, right = rows.sequences[pair.left], rows.sequences[pair.right]

        def frontier(come: tuple[int, ...]) -> int:
            made = come[left.track] - left.shortfall
            return max(0, -lag, min(made, come[right.track] - right.shortfall - lag))

        return frontier(self.before), frontier(self.upto)


def step_units(header: Header, rows: RowNeeds) -> Index:
    """The steps at which any needed row was recorded, increasing, int64."""
    steps = [header.steps[stream][needed] for stream, needed in rows.needed.items()]
    if not steps:
        return np.empty(0, np.int64)
    first = steps[0]
    if bool((np.diff(first) > 0).all()) and all(np.array_equal(first, s) for s in steps[1:]):
        return first
    return np.unique(np.concatenate(steps))


def rows_per_unit(header: Header, rows: RowNeeds, units: Index) -> dict[str, Index]:
    """For each stream its number of needed rows at each of the steps `units`."""
    return {
        stream: np.bincount(np.searchsorted(units, header.steps[stream][needed]), None, len(units))
        for stream, needed in rows.needed.items()
    }


def partition(weights: Callable[[int, int], float], units: int) -> list[int] | None:
    """Cut 0..units greedily so that each part weighs at most 1.

    Args:
        weights: The weight of units [start, stop), growing with stop.
        units: How many.

    Returns:
        The cuts, from 0 to `units`; None if one unit alone weighs too much.
    """
    cuts = [0]
    length = units
    while cuts[-1] < units:
        start = cuts[-1]
        if weights(start, start + 1) > 1:
            return None
        low, high = start + 1, units
        guesses = [start + length, start + length + 1]  # most parts are as long as the one before
        while low < high:
            middle = guesses.pop() if guesses else (low + high + 1) // 2
            middle = min(max(middle, low + 1), high)
            low, high = (middle, high) if weights(start, middle) <= 1 else (low, middle - 1)
        cuts.append(low)
        length = low - start
    return cuts


def make_blocks(header: Header, rows: RowNeeds, units: Index, cuts: list[int]) -> Iterator[Block]:
    """The blocks for a partition of the steps.

    Args:
        header: The selected part of the run.
        rows: The reduced needs.
        units: The steps of `step_units`.
        cuts: Where `units` is cut, as from `partition`.

    Yields:
        The blocks, in order of time.
    """
    held: dict[str, list[int]] = {}
    for stream, position in rows.references:
        held.setdefault(stream, []).append(position)
    before = (0,) * len(rows.tracks)
    for start, stop in pairwise(cuts):
        first, last = units[start], units[stop - 1]
        staged: dict[str, Index] = {}
        for stream, needed in rows.needed.items():
            steps = header.steps[stream][needed]
            part = needed[np.searchsorted(steps, first) : np.searchsorted(steps, last, "right")]
            references = np.array(held.get(stream, []), np.int64)
            if len(references):
                merge = np.setdiff1d if start else np.union1d
                part = merge(part, references).astype(np.int64)
            staged[stream] = part
        upto = tuple(
            int(np.searchsorted(header.steps[track.stream][track.positions], last, "right"))
            for track in rows.tracks
        )
        new = [t.positions[a:b] for t, a, b in zip(rows.tracks, before, upto, strict=True)]
        copies = tuple(
            _copies(rows, track.stream, positions, staged[track.stream])
            for track, positions in zip(rows.tracks, new, strict=True)
        )
        yield Block(
            staged=staged,
            before=before,
            upto=upto,
            copies=copies,
            gathers=tuple(_gather(rows, number, new, copies) for number in range(len(new))),
            samples=_samples(header, rows, staged, int(first), int(last)),
            references=()
            if start
            else tuple(int(np.searchsorted(staged[s], p)) for s, p in rows.references),
        )
        before = upto


def _copies(rows: RowNeeds, stream: str, positions: Index, staged: Index) -> tuple[Copy, ...]:
    """Where the rows at `positions` are found, in runs of constant stride."""
    index = np.searchsorted(staged, positions)
    found = np.append(staged, -1)[index] == positions
    held = np.append(np.flatnonzero(~found), len(positions))
    turns = np.append(np.flatnonzero(np.diff(index, 2)) + 1, len(positions))  # the stride changes
    copies: list[Copy] = []
    into = 0
    while into < len(positions):
        if not found[into]:
            number = rows.references.index((stream, int(positions[into])))
            copies.append(Copy(into, 1, number, held=True))
            into += 1
            continue
        turn = turns[np.searchsorted(turns, into + 1)] if into + 1 < len(positions) else into
        stop = int(min(turn + 1, held[np.searchsorted(held, into)]))
        stride = int(index[into + 1] - index[into]) if stop > into + 1 else 1
        copies.append(Copy(into, stop - into, int(index[into]), stride))
        into = stop
    return tuple(copies)


def _gather(
    rows: RowNeeds, track: int, new: list[Index], copies: tuple[tuple[Copy, ...], ...]
) -> tuple[int, Index] | None:
    """A track of the same stream, itself copied in few runs, that includes a scattered one."""
    if len(copies[track]) <= _FEW_COPIES:
        return None
    for other, including in enumerate(new):
        same = rows.tracks[other].stream == rows.tracks[track].stream
        if same and len(copies[other]) <= _FEW_COPIES and np.isin(new[track], including).all():
            return other, np.searchsorted(including, new[track]).astype(np.int64)
    return None


def _samples(
    header: Header, rows: RowNeeds, staged: dict[str, Index], first: int, last: int
) -> tuple[tuple[int, int, int], ...]:
    if not rows.samples:
        return ()
    steps = header.steps[GRADIENT_SAMPLES][staged[GRADIENT_SAMPLES]]
    numbered = np.unique(header.steps[GRADIENT_SAMPLES])
    return tuple(
        (
            int(np.searchsorted(numbered, step)),
            int(np.searchsorted(steps, step)),
            int(np.searchsorted(steps, step, "right")),
        )
        for step in np.unique(steps)
        if first <= step <= last
    )
