"""What the compiled kernels do with a region during a time block, as a table of instructions.

The table does not depend on the columns, so it is made once for all tiles of a block. Formed rows
live in rings of scratch rows, each as long as the rows that are still wanted: rows are formed, and
multiplied, step by step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajfile.engine import tables as t
from trajfile.engine.blocks import Block
from trajfile.engine.grouping import FEW, WINDOW, Advance, Meeting, Product, group
from trajfile.engine.plan import Plan
from trajfile.engine.rings import Code, rings
from trajfile.engine.rows import Index
from trajfile.engine.schedule import RegionWork, carried_rows
from trajfile.engine.totals import Own, TotalsLayout, own_layout

#: Left rows of a band that are multiplied at a time: a multiple of the three that go together.
_BAND_ROWS = 48


@dataclass(frozen=True, eq=False)
class Program:
    """The instructions for a region during a block.

    Attributes:
        tracks: For each track of the region its first row in the table of rows and its rows.
        copied: For each reference row whether it is copied when it is read: as float32, or because
            later blocks want it too. Otherwise it is used where it was read to.
        rows: How many rows the table has, formed ones included; the reference rows come first.
        scratch: For each row its number among the scratch rows; -1 if it is not formed.
        scratch_rows: Scratch rows in all.
        code: See `trajfile.engine.tables`.
        masks: Rows asked for at each lag of a band.
        own: For each pair where a tensor's own sums lie.
        own_size: Elements of a tensor's own sums.
    """

    tracks: dict[int, tuple[int, int]]
    copied: tuple[bool, ...]
    rows: int
    scratch: Index
    scratch_rows: int
    code: Code
    masks: Index
    own: Mapping[int, Own]
    own_size: int


@dataclass(frozen=True)
class _Rows:
    """Rows of a sequence in the table: row i, counted from the start of the run, where they begin.

    Attributes:
        first: The first in the table.
        count: How many.
        origin: Number of the first.
    """

    first: int
    count: int
    origin: int

    def at(self, i: Index) -> Index:
        """Rows by number; in place of one that is not there, the nearest."""
        return self.first + np.clip(i - self.origin, 0, self.count - 1)

    def exist(self, i: Index) -> NDArray[np.bool_]:
        """Which rows are there."""
        return (i >= self.origin) & (i < self.origin + self.count)


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
        The program.
    """
    return _Maker(plan, block, work, halves, layout).make()


class _Maker:
    """Writes instructions in any order, each with the time at which it can be carried out.

    Time runs from 0 to 1 over the rows of each track: recorded rows are all there, but wait to be
    multiplied with what is formed of their neighbours.
    """

    def __init__(
        self,
        plan: Plan,
        block: Block,
        work: RegionWork,
        halves: frozenset[str],
        layout: TotalsLayout,
    ) -> None:
        self.plan, self.block, self.work = plan, block, work
        later = len(plan.blocks) > 1
        self.copied = tuple(later or stream in halves for stream, _ in plan.rows.references)
        self.own, self.own_size = own_layout(plan, work)
        self.groups = group(plan, work, layout, self.own)
        self.rows = len(plan.rows.references)  # these come first
        self.ready: list[NDArray[np.float64]] = [np.zeros(self.rows)]
        self.formed: list[_Rows] = []
        self.parts: list[tuple[Code, NDArray[np.float64]]] = []
        self.masks: list[tuple[int, int]] = []
        self.tracks = {track: self._recorded(track) for track in work.tracks}
        self.values = dict(self.tracks)
        for track in work.tracks:
            if plan.rows.tracks[track].stream in halves:
                self.values[track] = self._widened(self.tracks[track])
        self.sequences: dict[int, _Rows] = {
            number: self.values[sequence.track]
            for number, sequence in enumerate(plan.rows.sequences)
            if sequence.form == "value" and sequence.track in self.values
        }

    def make(self) -> Program:
        needed = self.groups.formed(self.plan.rows.sequences)
        # One for each of two rows: loops go number by number where they write to overlapping rows.
        spare = self._new(_Rows(0, 1, 0)), self._new(_Rows(0, 1, 0))
        for advance in self.groups.advances:
            self._advance(advance, needed, spare)
        for number in sorted(needed - self.sequences.keys()):
            self._subtracted(number)
        for meeting in self.groups.meetings:
            self._meet(meeting)
        for product in self.groups.single:
            self._single(product)
        for run in self.groups.bands:
            self._band(run)
        empty = np.empty((0, t.COLUMNS), np.int32), np.empty(0)
        codes, times = zip(empty, *self.parts, strict=True)
        # Of what is due at the same time, rows are formed in the order that they were written in.
        order = np.argsort(np.concatenate(times), kind="stable")
        code: Code = np.concatenate(codes)[order]
        formed = [slice(rows.first, rows.first + rows.count) for rows in self.formed]
        scratch, used = rings(code, self.rows, formed)
        return Program(
            tracks={track: (rows.first, rows.count) for track, rows in self.tracks.items()},
            copied=self.copied,
            rows=self.rows,
            scratch=scratch,
            scratch_rows=used,
            code=code,
            masks=np.array(self.masks, np.int64).reshape(len(self.masks), 2),
            own=self.own,
            own_size=self.own_size,
        )

    def _place(self, rows: _Rows, ready: NDArray[np.float64]) -> _Rows:
        """Add rows to the table."""
        placed = _Rows(self.rows, rows.count, rows.origin)
        self.rows += rows.count
        self.ready.append(ready)
        return placed

    def _new(self, like: _Rows) -> _Rows:
        """Add rows that are formed; when is found out when they are written."""
        made = self._place(like, np.zeros(like.count))
        self.formed.append(made)
        return made

    def _recorded(self, track: int) -> _Rows:
        carried = carried_rows(self.plan, self.block, track)
        before, upto = self.block.before[track], self.block.upto[track]
        count = carried + upto - before
        return self._place(_Rows(0, count, before - carried), np.arange(count) / max(1, count))

    def _write(self, kind: int, rows: Sequence[Index], into: Sequence[int] = ()) -> Code:
        """Write instructions of a kind.

        Args:
            kind: The kind.
            rows: For each place of a row the rows that take it, all of one length.
            into: The places of rows that are formed.

        Returns:
            The instructions, their sums still to be filled in.
        """
        code = np.zeros((len(rows[0]), t.COLUMNS), np.int32)
        code[:, t.KIND] = kind
        code[:, t.SUMS :] = -1
        for place, row in enumerate(rows):
            code[:, t.ROWS + place] = row
        ready = np.concatenate(self.ready)
        waits = [rows[place] for place in range(len(rows)) if place not in into]
        times = np.max([ready[row] for row in waits], axis=0, initial=0.0)
        for place in into:
            ready[rows[place]] = times
        self.ready = [ready]
        self.parts.append((code, times))
        return code

    def _widened(self, recorded: _Rows) -> _Rows:
        made = self._new(recorded)
        i = recorded.origin + np.arange(recorded.count)
        self._write(t.WIDEN, [recorded.at(i), made.at(i)], into=[1])
        return made

    def _subtracted(self, number: int) -> None:
        sequence = self.plan.rows.sequences[number]
        value = self.values[sequence.track]
        count = max(0, value.count - sequence.shortfall)
        made = self.sequences[number] = self._new(_Rows(0, count, value.origin))
        i = value.origin + np.arange(count)
        if sequence.form == "difference":
            self._write(t.SUBTRACT, [value.at(i + 1), value.at(i), made.at(i)], into=[2])
        else:
            reference = np.full(count, sequence.reference)
            self._write(t.SUBTRACT, [value.at(i), reference, made.at(i)], into=[2])

    def _advance(self, advance: Advance, needed: set[int], spare: tuple[_Rows, _Rows]) -> None:
        tracks = [advance.track] if advance.other is None else [advance.track, advance.other]
        values = [self.values[track] for track in tracks]
        i = np.arange(
            min(rows.origin for rows in values), max(rows.origin + rows.count for rows in values)
        )
        into = [
            self._differences(track, needed, aside, i)
            for track, aside in zip(tracks, spare, strict=False)
        ]
        # Without a reference, any row will do; what comes of it is not asked for.
        first, second = (
            np.full(len(i), r) if r >= 0 else values[0].at(i)
            for r in (*advance.references, -1, -1)[:2]
        )
        rows = [values[0].at(i), values[0].at(i + 1), first, second, into[0]]
        for value, made in zip(values[1:], into[1:], strict=True):
            rows += [value.at(i), value.at(i + 1), made]
        kind = t.ADVANCE if advance.other is None else t.ADVANCE_TWO
        code = self._write(kind, rows, into=[4, 7][: len(tracks)])
        for name, product in advance.products.items():
            place = t.ADVANCED.index(name)
            code[:, t.SUMS + place] = product.sums(i)
            code[:, t.TENSORS + place] = product.tensor_sums(i)

    def _differences(self, track: int, needed: set[int], spare: _Rows, i: Index) -> Index:
        """Where the differences of a track's rows are formed; those that nobody wants, aside."""
        for number in needed - self.sequences.keys():
            sequence = self.plan.rows.sequences[number]
            if sequence.track == track and sequence.form == "difference":
                value = self.values[track]
                made = self._new(_Rows(0, max(0, value.count - 1), value.origin))
                self.sequences[number] = made
                return np.where(made.exist(i), made.at(i), spare.first)
        return np.full(len(i), spare.first)

    def _meet(self, meeting: Meeting) -> None:
        products = meeting.products
        j = np.arange(
            min(p.first for p in products.values()), max(p.last for p in products.values())
        )
        wanted = {cell: product.sums(j) >= 0 for cell, product in products.items()}
        full = np.sum([*wanted.values()], axis=0) > FEW
        for cell, product in products.items():  # at the ends of a run windows are all but empty
            some = wanted[cell] & ~full
            if some.any():
                self._single(product, j[some])
        j = j[full]
        rows = [self.sequences[side].at(j) for side in meeting.later]
        earlier = self.sequences[meeting.earlier]
        rows += [earlier.at(j - meeting.lag - distance) for distance in range(WINDOW)]
        code = self._write(t.ONE_BY_SIX if len(meeting.later) == 1 else t.TWO_BY_SIX, rows)
        for (side, distance), product in products.items():
            code[:, t.SUMS + side * WINDOW + distance] = product.sums(j)

    def _single(self, product: Product, j: Index | None = None) -> None:
        if j is None:
            j = np.arange(product.first, product.last)
        later, earlier = self.sequences[product.later], self.sequences[product.earlier]
        code = self._write(t.DOT, [later.at(j), earlier.at(j - abs(product.lag))])
        code[:, t.SUMS] = product.sums(j)
        code[:, t.TENSORS] = product.tensor_sums(j)

    def _band(self, run: list[Product]) -> None:
        left, right = self.sequences[run[0].left], self.sequences[run[0].right]
        start, stop = min(p.start for p in run), max(p.stop for p in run)
        begin = np.arange(start, stop, _BAND_ROWS)
        until = np.minimum(begin + _BAND_ROWS, stop)
        first_lag, last_lag = run[0].lag, run[-1].lag
        code = self._write(t.BAND, [left.at(until - 1), right.at(until - 1 + last_lag)])
        code[:, t.BAND_LEFT] = left.first - left.origin
        code[:, t.BAND_RIGHT] = right.first - right.origin
        code[:, t.BAND_LEFT_STOP] = left.origin + left.count
        code[:, t.BAND_RIGHT_FIRST] = right.origin
        code[:, t.BAND_RIGHT_STOP] = right.origin + right.count
        code[:, t.BAND_START], code[:, t.BAND_STOP] = begin, until
        code[:, t.BAND_FIRST_LAG], code[:, t.BAND_LAGS] = first_lag, len(run)
        code[:, t.BAND_TOTAL], code[:, t.BAND_STRIDE] = run[0].total, run[0].stride
        code[:, t.BAND_MASK] = len(self.masks)
        self.masks += [(product.start, product.stop) for product in run]
