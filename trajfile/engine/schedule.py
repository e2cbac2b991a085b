"""The schedule: which products are formed in a region during a block, and in what manner.

It is the same for every sub-block of columns, so it is worked out once and not again for each.
"""

from __future__ import annotations

from dataclasses import dataclass

from trajfile.engine.blocks import Block
from trajfile.engine.columns import Region
from trajfile.engine.plan import Plan
from trajfile.engine.products import references_exist, track_start


@dataclass(frozen=True)
class ActivePair:
    """A pair that counts in a region.

    Attributes:
        number: Index of the pair.
        first: First existing row of the left and of the right track.
    """

    number: int
    first: tuple[int, int]


@dataclass(frozen=True)
class Stretch:
    """The products of a pair at one lag that are formed in a block.

    Attributes:
        column: Column of the lag in the pair's sums.
        lag: The lag.
        start: First left row.
        stop: Row after the last.
    """

    column: int
    lag: int
    start: int
    stop: int


@dataclass(frozen=True)
class PairWork:
    """The products of one pair that are formed in a block.

    Attributes:
        number: Index of the pair.
        left: Index of the left sequence.
        right: Index of the right one.
        origin: Row numbers of the first left and right rows at hand.
        single: Lags to be multiplied tensor by tensor, each with its column among these.
        runs: Runs of consecutive lags, each multiplied at once.
    """

    number: int
    left: int
    right: int
    origin: tuple[int, int]
    single: tuple[tuple[int, Stretch], ...]
    runs: tuple[tuple[Stretch, ...], ...]


@dataclass(frozen=True, eq=False)
class RegionWork:
    """All products that are formed in a region during a block.

    Attributes:
        tracks: The tracks they draw on, those that others are gathered from first.
        sequences: The sequences they draw on.
        pairs: The products.
    """

    tracks: tuple[int, ...]
    sequences: tuple[int, ...]
    pairs: tuple[PairWork, ...]


def active_pairs(plan: Plan, region: Region) -> tuple[ActivePair, ...]:
    """The pairs whose streams both hold a region's tensors."""
    rows = plan.rows
    active = []
    for number, pair in enumerate(rows.pairs):
        tracks = [rows.sequences[side].track for side in (pair.left, pair.right)]
        streams = [rows.tracks[track].stream for track in tracks]
        if not all(stream in region.first_rows for stream in streams):
            continue
        first_rows = region.first_rows[streams[0]], region.first_rows[streams[1]]
        if references_exist(plan, number, first_rows):
            starts = [track_start(plan, t, f) for t, f in zip(tracks, first_rows, strict=True)]
            active.append(ActivePair(number, (starts[0], starts[1])))
    return tuple(active)


def schedule(plan: Plan, block: Block, active: tuple[ActivePair, ...]) -> RegionWork:
    """Work out what a block forms of some pairs.

    Args:
        plan: The plan.
        block: The block.
        active: The pairs that count in the region.

    Returns:
        The work.
    """
    rows = plan.rows
    pairs = tuple(_pair_work(plan, block, item) for item in active)
    sequences = sorted({side for work in pairs for side in (work.left, work.right)})
    tracks = sorted({rows.sequences[side].track for side in sequences})
    return RegionWork(
        tuple(sorted(tracks, key=lambda track: block.gathers[track] is not None)),
        tuple(sequences),
        pairs,
    )


def carried_rows(plan: Plan, block: Block, track: int) -> int:
    """How many rows of a track are carried into a block."""
    return min(plan.carries[track], block.before[track])


def _pair_work(plan: Plan, block: Block, item: ActivePair) -> PairWork:
    rows = plan.rows
    pair = rows.pairs[item.number]
    tracks = [rows.sequences[side].track for side in (pair.left, pair.right)]
    origin = [block.before[track] - carried_rows(plan, block, track) for track in tracks]
    by_tensor = pair.tensor_lags if plan.per_tensor else ()
    single = []
    together = []
    for column, lag in enumerate(pair.lags):
        start, stop = block.new_products(rows, pair, lag)
        stretch = Stretch(column, lag, max(start, item.first[0], item.first[1] - lag), stop)
        if stretch.start >= stretch.stop:
            continue
        if lag in by_tensor:
            single.append((by_tensor.index(lag), stretch))
        else:
            together.append(stretch)
    return PairWork(
        item.number,
        pair.left,
        pair.right,
        (origin[0], origin[1]),
        tuple(single),
        _runs(together),
    )


def _runs(stretches: list[Stretch]) -> tuple[tuple[Stretch, ...], ...]:
    """Cut where lags are not consecutive."""
    runs: list[list[Stretch]] = []
    for stretch in stretches:
        if runs and runs[-1][-1].lag + 1 == stretch.lag:
            runs[-1].append(stretch)
        else:
            runs.append([stretch])
    return tuple(tuple(run) for run in runs)
