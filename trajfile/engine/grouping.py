"""Which products of a region are formed together, so that each row is loaded as seldom as can be.

* Products of rows of the same step go into *advances*: the row that follows is subtracted, offsets
  are formed, and up to ten products summed, all in one loop.
* Products with the few rows before go into *meetings*: one or two rows of a step with six earlier
  ones of a sequence.
* Runs of many lags are *bands*, covered by dense blocks of rows.
* What is left is multiplied by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from trajfile.engine.plan import Plan
from trajfile.engine.rows import Index
from trajfile.engine.rows import Sequence as RowSequence
from trajfile.engine.schedule import PairWork, RegionWork, Stretch
from trajfile.engine.tables import ADVANCED
from trajfile.engine.totals import Own, TotalsLayout

#: From so many lags on, a run is covered by blocks of its own.
_MANY_LAGS = 16
#: Earlier rows that one or two rows are multiplied with at a time.
WINDOW = 6
#: So few products are not worth multiplying with a whole window.
FEW = 3


@dataclass(frozen=True, eq=False)
class Product:
    """The products of two sequences at one lag: of the left rows i in [start, stop).

    Attributes:
        left: Index of the left sequence.
        right: Index of the right one.
        lag: Left row i is multiplied with right row i + lag.
        start: First left row.
        stop: Left row after the last.
        total: Where row 0 is added among the totals.
        stride: How far row 1 is from it.
        tensor: Where row 0 would be added among the sums of a tensor; None if it is not.
        tensor_stride: How far row 1 is from it.
    """

    left: int
    right: int
    lag: int
    start: int
    stop: int
    total: int
    stride: int
    tensor: int | None = None
    tensor_stride: int = 0

    @property
    def later(self) -> int:
        """The sequence whose row is the later of two, if one is."""
        return self.right if self.lag > 0 else self.left

    @property
    def earlier(self) -> int:
        """The other sequence."""
        return self.left if self.lag > 0 else self.right

    @property
    def first(self) -> int:
        """The later row of the first product."""
        return self.start + max(self.lag, 0)

    @property
    def last(self) -> int:
        """The later row after that of the last product."""
        return self.stop + max(self.lag, 0)

    def sums(self, later: Index) -> Index:
        """Where the products of some later rows are added; -1 where there is none."""
        i = later - max(self.lag, 0)
        return np.where((self.start <= i) & (i < self.stop), self.total + i * self.stride, -1)

    def tensor_sums(self, later: Index) -> Index:
        """The same among the sums of a tensor."""
        i = later - max(self.lag, 0)
        asked = (self.start <= i) & (i < self.stop)
        if self.tensor is None:
            return np.full(len(i), -1)
        return np.where(asked, self.tensor + i * self.tensor_stride, -1)


@dataclass(frozen=True, eq=False)
class Advance:
    """Products of rows of the same step.

    Attributes:
        track: Whose rows are taken step by step.
        other: A second track, row by row beside the first; None without one.
        references: The references of offsets.
        products: By their names in `ADVANCED`.
    """

    track: int
    other: int | None
    references: tuple[int, ...]
    products: dict[str, Product]


@dataclass(frozen=True, eq=False)
class Meeting:
    """Products of the rows of a step with a window of earlier rows.

    Attributes:
        later: One or two sequences.
        earlier: The sequence of the window.
        lag: The least distance.
        products: By the number among `later`, and by distance beyond `lag`.
    """

    later: tuple[int, ...]
    earlier: int
    lag: int
    products: dict[tuple[int, int], Product]


@dataclass(eq=False)
class Groups:
    """All products of a region, each in one group.

    Attributes:
        advances: See the module.
        meetings: See the module.
        bands: Each the products of a run of consecutive lags.
        single: What is multiplied by itself.
    """

    advances: list[Advance] = field(default_factory=list)
    meetings: list[Meeting] = field(default_factory=list)
    bands: list[list[Product]] = field(default_factory=list)
    single: list[Product] = field(default_factory=list)

    def formed(self, sequences: list[RowSequence]) -> set[int]:
        """The sequences whose rows must be in memory to be multiplied."""
        used = {side for p in self.single for side in (p.left, p.right)}
        used |= {side for run in self.bands for side in (run[0].left, run[0].right)}
        used |= {side for m in self.meetings for side in (*m.later, m.earlier)}
        return {side for side in used if sequences[side].form != "value"}


def group(plan: Plan, work: RegionWork, layout: TotalsLayout, own: Mapping[int, Own]) -> Groups:
    """Deal the products of a region out to groups.

    Args:
        plan: The plan.
        work: The products that are formed in the region.
        layout: Where sums lie.
        own: Where those of a tensor lie.

    Returns:
        The groups.
    """
    groups = Groups()
    products: list[Product] = []
    for pair in work.pairs:
        for tensor_lag, stretch in pair.single:
            place = own[pair.number]
            # Row 0 may lie ahead of the first row that is added to.
            first = place.offset + tensor_lag - place.first * place.lags
            products.append(_product(plan, pair, stretch, layout, first))
        for run in pair.runs:
            found = [_product(plan, pair, stretch, layout) for stretch in run]
            if len(run) >= _MANY_LAGS:
                groups.bands.append(found)
            else:
                products += found
    while (advance := _best_advance(plan.rows.sequences, products)) is not None:
        groups.advances.append(advance)
        taken = set(map(id, advance.products.values()))
        products = [p for p in products if id(p) not in taken]
    groups.single = [p for p in products if p.tensor is not None]
    for meeting in _meetings([p for p in products if p.tensor is None]):
        if len(meeting.products) > FEW:
            groups.meetings.append(meeting)
        else:
            groups.single += meeting.products.values()
    return groups


def _product(
    plan: Plan, pair: PairWork, stretch: Stretch, layout: TotalsLayout, tensor: int | None = None
) -> Product:
    declared = plan.rows.pairs[pair.number]
    return Product(
        left=pair.left,
        right=pair.right,
        lag=stretch.lag,
        start=stretch.start,
        stop=stretch.stop,
        total=layout.totals[pair.number] + stretch.column,
        stride=len(declared.lags),
        tensor=tensor,
        tensor_stride=len(declared.tensor_lags),
    )


def _best_advance(sequences: list[RowSequence], products: list[Product]) -> Advance | None:
    """The advance of most products; None if there is none of two or more."""
    together = [p for p in products if p.lag == 0]
    tracks = sorted({sequences[side].track for p in together for side in (p.left, p.right)})
    best: Advance | None = None
    for track in tracks:
        references = _references(sequences, together, track)
        for other in (None, *(t for t in tracks if t != track)):
            named: dict[str, Product] = {}
            for product in together:
                sides = (sequences[product.left], sequences[product.right])
                name = "".join(sorted(_letter(side, track, other, references) for side in sides))
                if name in ADVANCED:
                    named.setdefault(name, product)
            joined = other is None or "vw" in named or "de" in named
            if joined and len(named) > (1 if best is None else len(best.products)):
                best = Advance(track, other, references, named)
    return best


def _references(
    sequences: list[RowSequence], products: list[Product], track: int
) -> tuple[int, ...]:
    """The two references that most offsets of a track are multiplied from, at most."""
    found = [
        sequences[side].reference
        for p in products
        for side in (p.left, p.right)
        if sequences[side].track == track and sequences[side].form == "offset"
    ]
    return tuple(sorted(sorted(set(found)), key=lambda r: -found.count(r))[:2])


def _letter(
    sequence: RowSequence, track: int, other: int | None, references: tuple[int, ...]
) -> str:
    """What `ADVANCED` calls a sequence; "?" if it does not know it."""
    if sequence.track == track:
        if sequence.form == "offset":
            known = sequence.reference in references
            return "ab"[references.index(sequence.reference)] if known else "?"
        return "v" if sequence.form == "value" else "d"
    if sequence.track == other and sequence.form != "offset":
        return "w" if sequence.form == "value" else "e"
    return "?"


def _meetings(products: list[Product]) -> Iterator[Meeting]:
    """Gather products by their earlier rows, then two later sequences and six distances at once."""
    earlier: dict[int, dict[int, list[Product]]] = {}
    for product in products:
        earlier.setdefault(product.earlier, {}).setdefault(product.later, []).append(product)
    for side, by_later in earlier.items():
        names = sorted(by_later)
        for first in range(0, len(names), 2):
            left = [p for name in names[first : first + 2] for p in by_later[name]]
            while left:
                lag = min(abs(p.lag) for p in left)
                some = [p for p in left if abs(p.lag) < lag + WINDOW]
                left = [p for p in left if abs(p.lag) >= lag + WINDOW]
                later = tuple(sorted({p.later for p in some}))
                cells = {(later.index(p.later), abs(p.lag) - lag): p for p in some}
                yield Meeting(later, side, lag, cells)
