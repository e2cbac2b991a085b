"""What the compiled kernels do with a region during a time block, as tables of integers.

The tables do not depend on the columns, so they are made once for all tiles of a block. Formed
rows live in rings of scratch rows, each as long as the rows that are still wanted: rows are formed
in step with the products, a few at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.engine import tables as t
from trajfile.engine.blocks import Block
from trajfile.engine.plan import Plan
from trajfile.engine.rows import Index
from trajfile.engine.schedule import PairWork, RegionWork, Stretch, carried_rows
from trajfile.engine.totals import TotalsLayout

#: Steps after which products of several lags at a time are made; others are made at each step.
_STEPS = 16
#: From so many lags on, right rows come from the second-level cache, and the fewer at a time the
#: better.
_MANY_LAGS = 16


@dataclass(frozen=True, eq=False)
class Program:
    """The tables for a region during a block.

    Attributes:
        tracks: For each track of the region its first row in the table of rows and its rows.
        references: First row of the reference rows in the table.
        rows: How many rows the table has, formed ones included.
        scratch: For each row its number among the scratch rows; -1 if it is not formed.
        scratch_rows: Scratch rows in all.
        forms: See `trajfile.engine.tables`.
        formed: Rows of each form that are made by each step block.
        ops: The products.
        due: Rows of each product that are made by each step block.
        masks: Rows asked for at each lag.
    """

    tracks: dict[int, tuple[int, int]]
    references: int
    rows: int
    scratch: Index
    scratch_rows: int
    forms: Index
    formed: Index
    ops: Index
    due: Index
    masks: Index


@dataclass(eq=False)
class _Formed:
    """Rows of a sequence in the table: where, how many, and by which form; -1 if as recorded."""

    first: int
    count: int
    form: int = -1


def make_program(
    plan: Plan, block: Block, work: RegionWork, halves: frozenset[str], layout: TotalsLayout
) -> Program:
    """Write down what a region needs during a block.

    Args:
        plan: The plan.
        block: The block.
        work: What to form.
        halves: The streams whose rows are staged as bfloat16.
        layout: Where sums lie.

    Returns:
        The tables.
    """
    return _Maker(plan, block, work, halves, layout).make()


class _Maker:
    def __init__(
        self,
        plan: Plan,
        block: Block,
        work: RegionWork,
        halves: frozenset[str],
        layout: TotalsLayout,
    ) -> None:
        self.plan, self.block, self.work, self.layout = plan, block, work, layout
        self.halves = halves
        self.rows = len(plan.rows.references)  # these come first
        self.forms: list[list[int]] = []
        self.formed_rows: list[_Formed] = []
        self.ops: list[list[int]] = []
        self.stops: list[int] = []
        self.sides: list[tuple[_Formed, _Formed, tuple[int, int]]] = []
        self.masks: list[tuple[int, int]] = []

    def make(self) -> Program:
        tracks, values = self._tracks()
        sequences = {side: self._sequence(side, values) for side in self.work.sequences}
        for pair in self.work.pairs:
            for lag, stretch in pair.single:
                self._product(pair, sequences, (stretch,), lag)
            for run in pair.runs:
                self._product(pair, sequences, run, -1)
        longest = max((count for _, count in tracks.values()), default=0)
        blocks = max(1, longest)
        formed = self._formed(blocks, values)
        due = self._due(blocks, formed)
        scratch, used = self._rings(formed, due)
        return Program(
            tracks=tracks,
            references=0,
            rows=self.rows,
            scratch=scratch,
            scratch_rows=used,
            forms=_table(self.forms, t.FORM_COLUMNS),
            formed=formed,
            ops=_table(self.ops, t.OP_COLUMNS),
            due=due,
            masks=_table([list(mask) for mask in self.masks], 2),
        )

    def _new(self, count: int, form: int = -1) -> _Formed:
        made = _Formed(self.rows, count, form)
        self.rows += count
        return made

    def _form(self, kind: int, of: _Formed, count: int, reference: int = 0) -> _Formed:
        made = self._new(count, len(self.forms))
        self.forms.append([kind, of.first, made.first, reference])
        self.formed_rows.append(made)
        return made

    def _tracks(self) -> tuple[dict[int, tuple[int, int]], dict[int, _Formed]]:
        """For each track its rows as they lie in memory, and as float32."""
        places: dict[int, tuple[int, int]] = {}
        values: dict[int, _Formed] = {}
        for track in self.work.tracks:
            new = self.block.upto[track] - self.block.before[track]
            recorded = self._new(carried_rows(self.plan, self.block, track) + new)
            places[track] = recorded.first, recorded.count
            half = self.plan.rows.tracks[track].stream in self.halves
            values[track] = self._form(t.WIDEN, recorded, recorded.count) if half else recorded
        return places, values

    def _sequence(self, number: int, values: dict[int, _Formed]) -> _Formed:
        sequence = self.plan.rows.sequences[number]
        value = values[sequence.track]
        if sequence.form == "value":
            return value
        if sequence.form == "difference":
            return self._form(t.DIFFERENCE, value, max(0, value.count - 1))
        return self._form(t.OFFSET, value, value.count, sequence.reference)

    def _product(
        self, pair: PairWork, sequences: dict[int, _Formed], run: tuple[Stretch, ...], lag: int
    ) -> None:
        left, right = sequences[pair.left], sequences[pair.right]
        start, stop = min(s.start for s in run), max(s.stop for s in run)
        op = [0] * t.OP_COLUMNS
        op[t.OP_LEFT] = left.first - pair.origin[0]
        op[t.OP_RIGHT] = right.first - pair.origin[1]
        op[t.OP_LEFT_STOP] = pair.origin[0] + left.count
        op[t.OP_RIGHT_FIRST] = pair.origin[1]
        op[t.OP_RIGHT_STOP] = pair.origin[1] + right.count
        op[t.OP_START] = start
        op[t.OP_FIRST_LAG], op[t.OP_LAGS] = run[0].lag, len(run)
        op[t.OP_TALL] = _tall(len(run))
        columns = len(self.plan.rows.pairs[pair.number].lags)
        op[t.OP_TOTAL] = self.layout.totals[pair.number] + run[0].column
        op[t.OP_TOTAL_STRIDE] = columns
        op[t.OP_PER_TENSOR] = -1 if lag < 0 else self.layout.tensors[pair.number] + lag
        op[t.OP_TENSOR_STRIDE] = len(self.plan.rows.pairs[pair.number].tensor_lags)
        op[t.OP_MASK] = len(self.masks)
        self.ops.append(op)
        self.masks += [(stretch.start, stretch.stop) for stretch in run]
        self.stops.append(stop)
        self.sides.append((left, right, pair.origin))

    def _formed(self, blocks: int, values: dict[int, _Formed]) -> Index:
        """Rows of each form that there are after each step block."""
        made = np.zeros((blocks, len(self.forms)), np.int64)
        by_first = {rows.first: rows for rows in [*values.values(), *self.formed_rows]}
        after = np.arange(1, blocks + 1)
        for number, form in enumerate(self.forms):
            rows = self.formed_rows[number]
            made[:, number] = -(-rows.count * after // blocks)
            source = by_first.get(form[t.FORM_OF])
            if source is not None and source.form >= 0:  # formed before, row by row
                ahead = made[:, source.form] - (form[t.FORM_KIND] == t.DIFFERENCE)
                made[:, number] = np.minimum(made[:, number], np.maximum(0, ahead))
        return made

    def _due(self, blocks: int, formed: Index) -> Index:
        """The left row that each product has come to after each step block."""
        # Where nothing is due, a product stays at its first row.
        due = np.array([[op[t.OP_START] for op in self.ops]] * blocks, np.int64)
        after = np.arange(1, blocks)
        for number, op in enumerate(self.ops):
            start, stop = op[t.OP_START], self.stops[number]
            height = 1 if op[t.OP_LAGS] == 1 else 3 if op[t.OP_TALL] else 2
            last_lag = op[t.OP_FIRST_LAG] + op[t.OP_LAGS] - 1
            *sides, origin = self.sides[number]
            left, right = (
                origin[side] + (formed[:-1, rows.form] if rows.form >= 0 else rows.count)
                for side, rows in enumerate(sides)
            )
            # Recorded rows are all there; they wait only to be multiplied while in the cache.
            share = start - (-(stop - start) * after // blocks)
            until = np.minimum(np.minimum(stop, share), np.minimum(left, right - last_lag))
            come = start + np.maximum(0, until - start) // height * height
            now = after % _STEPS == 0 if op[t.OP_LAGS] > 1 else np.ones(blocks - 1, bool)
            due[:-1, number][now] = come[now]
            due[blocks - 1, number] = stop
        return np.maximum.accumulate(due, axis=0)

    def _rings(self, formed: Index, due: Index) -> tuple[Index, int]:
        """The scratch row of each formed row: used again when nothing will want it any more."""
        oldest = formed.copy()  # the first row of each form still wanted in a block
        for number, op in enumerate(self.ops):
            begin = np.concatenate([[op[t.OP_START]], due[:-1, number]])
            wanted = begin < self.stops[number]
            left, right, origin = self.sides[number]
            for rows, first in (
                (left, begin - origin[0]),
                (right, begin + op[t.OP_FIRST_LAG] - origin[1]),
            ):
                if rows.form >= 0:
                    known = oldest[:, rows.form]
                    known[wanted] = np.minimum(known, np.maximum(0, first))[wanted]
        for number, form in enumerate(self.forms):
            begin = np.concatenate([[0], formed[:-1, number]])
            for source, rows in enumerate(self.formed_rows):
                if form[t.FORM_OF] == rows.first:
                    oldest[:, source] = np.minimum(oldest[:, source], begin)
        scratch = np.full(self.rows, -1, np.int64)
        used = 0
        for number, rows in enumerate(self.formed_rows):
            ring = max(1, int((formed[:, number] - oldest[:, number]).max(initial=1)))
            scratch[rows.first : rows.first + rows.count] = used + np.arange(rows.count) % ring
            used += ring
        return scratch, used


def _tall(lags: int) -> int:
    """Whether blocks of three by four rows waste fewer products than those of two by six."""
    if lags == 1:
        return 0
    if lags >= _MANY_LAGS:
        return 1
    return int(4 * -(-(lags + 2) // 4) < 6 * -(-(lags + 1) // 6))


def _table(rows: list[list[int]], columns: int) -> NDArray[np.int64]:
    return np.array(rows, np.int64).reshape(len(rows), columns)
