"""Where the sums of all pairs lie when they are kept in one array."""

from __future__ import annotations

from dataclasses import dataclass

from trajfile.engine.plan import Plan


@dataclass(frozen=True)
class TotalsLayout:
    """Offsets of each pair's sums, C-contiguous one after another.

    Attributes:
        totals: Of the sums over all tensors, (rows, lags) each.
        total_size: Their elements together.
        tensors: Of one tensor's sums, (rows, tensor lags) each.
        tensor_size: Their elements together.
        rows: Rows of each pair.
    """

    totals: tuple[int, ...]
    total_size: int
    tensors: tuple[int, ...]
    tensor_size: int
    rows: tuple[int, ...]


def totals_layout(plan: Plan) -> TotalsLayout:
    """The layout for the pairs of a plan."""
    totals, tensors, rows = [], [], []
    total_size = tensor_size = 0
    for pair in plan.rows.pairs:
        length = len(plan.rows.tracks[plan.rows.sequences[pair.left].track].positions)
        totals.append(total_size)
        tensors.append(tensor_size)
        rows.append(length)
        total_size += length * len(pair.lags)
        tensor_size += length * len(pair.tensor_lags)
    return TotalsLayout(tuple(totals), total_size, tuple(tensors), tensor_size, tuple(rows))
