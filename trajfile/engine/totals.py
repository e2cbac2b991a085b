"""Where the sums of all pairs lie when they are kept in one array."""

from __future__ import annotations

from dataclasses import dataclass

from trajfile.engine.plan import Plan
from trajfile.engine.schedule import RegionWork
from trajfile.errors import ResourceError


@dataclass(frozen=True)
class TotalsLayout:
    """Offsets of each pair's sums over all tensors, C-contiguous one after another.

    Attributes:
        totals: Of the sums, (rows, lags) each.
        total_size: Their elements together.
        rows: Rows of each pair.
    """

    totals: tuple[int, ...]
    total_size: int
    rows: tuple[int, ...]


def totals_layout(plan: Plan) -> TotalsLayout:
    """The layout for the pairs of a plan.

    Args:
        plan: The plan.

    Returns:
        The layout.

    Raises:
        ResourceError: If there are 2³¹ sums or more.
    """
    totals, rows = [], []
    total_size = 0
    for pair in plan.rows.pairs:
        length = len(plan.rows.tracks[plan.rows.sequences[pair.left].track].positions)
        totals.append(total_size)
        rows.append(length)
        total_size += length * len(pair.lags)
    if total_size >= 2**31:  # programs count in 32 bits
        raise ResourceError(
            f"the pass would add up {total_size} products, more than 2³¹: select fewer steps",
            needed=8 * total_size,
        )
    return TotalsLayout(tuple(totals), total_size, tuple(rows))


@dataclass(frozen=True)
class Own:
    """A tensor's own sums of one pair that are added to during a block.

    Attributes:
        offset: Where they lie, C-contiguous.
        first: The first row.
        rows: How many rows.
        lags: How many lags.
    """

    offset: int
    first: int
    rows: int
    lags: int


def own_layout(plan: Plan, work: RegionWork) -> tuple[dict[int, Own], int]:
    """Where the sums of one tensor lie, during a block.

    Args:
        plan: The plan.
        work: What is formed during the block.

    Returns:
        For each pair with products per tensor its sums, and the elements of all together.
    """
    found: dict[int, Own] = {}
    size = 0
    for pair in work.pairs:
        if pair.single:
            first = min(stretch.start for _, stretch in pair.single)
            rows = max(stretch.stop for _, stretch in pair.single) - first
            lags = len(plan.rows.pairs[pair.number].tensor_lags)
            found[pair.number] = Own(size, first, rows, lags)
            size += rows * lags
    return found, size
