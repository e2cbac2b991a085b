"""The plan of a pass: what is read, in which tiles, within which memory. Pure and printable.

A tile is a strip of columns in one time block. `trajfile.engine.shape` picks the width of the
strips and the length of the blocks so that all buffers together stay within the budget.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from trajfile.dtypes import EXTENDED
from trajfile.engine.blocks import Block, make_blocks
from trajfile.engine.budget import format_bytes
from trajfile.engine.columns import PlacedTensor, Strip, cut_strips, placed_tensors
from trajfile.engine.header import Header
from trajfile.engine.matrices import affordable_layers
from trajfile.engine.needs import LayerPair, Need
from trajfile.engine.rows import RowNeeds, reduce_needs
from trajfile.engine.shape import Layout, Profile, Shaper, index_bytes
from trajfile.engine.sizes import matrix_bytes, slot_bytes, tensor_bytes, total_bytes
from trajfile.errors import ResourceError

#: Dtypes of which every value is a float32.
_WITHIN_FLOAT32 = {"float32", "float16", "int8", "int16", "uint8", "uint16", *EXTENDED}

#: What threads, allocators and libraries take beyond the buffers of a pass; measured near 10 MiB.
#: Left out of budgets so small that it would be most of them.
LIBRARIES_BYTES = 2**24
#: Into how many parts a pass is divided at most, for several processes or machines.
MOST_PARTS = 32
#: Fewer columns than this are not worth dividing ...
_LEAST_CELL = 64
#: ... nor, where products keep up with reading, are they among more than two lanes: less of a row
#: would be read and multiplied at a time.
LANE_COLUMNS = 4096


@dataclass(frozen=True, eq=False)
class Plan:
    """What one pass will read and hold.

    Attributes:
        header: The selected part of the run.
        layout: Where it lies.
        profile: The device.
        rows: The reduced needs.
        strips: The strips.
        blocks: The time blocks, the same for every strip.
        columns: Most columns that a worker multiplies at a time.
        lanes: Into how many shares the columns of a strip are divided.
        cell: Columns of a share; lane n takes columns [n cell, (n + 1) cell).
        carries: For each track how many rows are carried from block to block.
        per_tensor: Whether per-tensor sums are kept.
        refused: Needs that do not fit the budget, with the reason.
        memory: Bytes by item; their sum is at most `budget`.
        budget: Bytes that may be held.
        metrics: For each metric asked for, an empty string or why it will not be computed.
        precision: In which rows are subtracted and multiplied; sums are always float64.
        passes: Always one.
    """

    header: Header
    layout: Layout
    profile: Profile
    rows: RowNeeds
    strips: tuple[Strip, ...]
    blocks: tuple[Block, ...]
    columns: int
    lanes: int
    cell: int
    carries: tuple[int, ...]
    per_tensor: bool
    refused: Mapping[Need, str]
    memory: Mapping[str, int]
    budget: int
    metrics: Mapping[str, str] = field(default_factory=dict)
    precision: Literal["float32", "float64"] = "float64"
    passes: int = 1

    @property
    def bytes_to_read(self) -> int:
        """Recorded bytes that the pass reads, each once."""
        return sum(
            strip.row_bytes(stream) * len(needed)
            for strip in self.strips
            for stream, needed in self.rows.needed.items()
        )

    @property
    def parts(self) -> tuple[tuple[Strip, ...], ...]:
        """The strips, in order, in parts that several processes can take.

        However many take them, the parts are the same, and so are the sums when the parts' sums
        are merged in their order.
        """
        count = min(len(self.strips), MOST_PARTS)
        edges = [number * len(self.strips) // count for number in range(count)] if count else []
        return tuple(self.strips[a:b] for a, b in pairwise([*edges, len(self.strips)]))

    def on_threads(self, count: int) -> Plan:
        """The same pass on at most so many threads; the sums are the same to the last bit."""
        count = max(1, min(count, self.profile.workers))
        scratch = self.memory["scratch"] // self.profile.workers * count
        return replace(
            self,
            profile=replace(self.profile, workers=count),
            memory={**self.memory, "scratch": scratch},
        )

    @property
    def peak_bytes(self) -> int:
        """Bytes of all buffers together."""
        return sum(self.memory.values())

    @property
    def widest(self) -> int:
        """Columns of the widest strip."""
        return max((strip.columns for strip in self.strips), default=0)

    @property
    def scratch_elements(self) -> int:
        """How many numbers the scratch memory of a worker holds."""
        return self.memory["scratch"] // self.profile.workers // 8

    @property
    def slot_bytes(self) -> int:
        """Bytes of the largest tile, as staged."""
        return slot_bytes(self.strips, self.blocks)

    def describe(self) -> list[tuple[str, str]]:
        """The plan as (label, value) lines for a person."""
        width = max((strip.columns for strip in self.strips), default=0)
        total = sum(strip.columns for strip in self.strips)
        lines = [
            ("reads", f"{format_bytes(self.bytes_to_read)} in {self.passes} pass"),
            *((f"  {s}", f"{len(n):,} rows") for s, n in self.rows.needed.items()),
            ("columns", f"{total:,} in {len(self.strips):,} strips of up to {width:,}"),
            ("time blocks", f"{len(self.blocks):,} for each strip"),
            (
                "products",
                f"{sum(len(p.lags) for p in self.rows.pairs)} for each row and column, "
                f"in {self.precision}",
            ),
            ("device", f"{self.profile.device}, {self.profile.workers} at work"),
            ("memory", f"{format_bytes(self.peak_bytes)} of {format_bytes(self.budget)}"),
            *((f"  {item}", format_bytes(size)) for item, size in self.memory.items() if size),
        ]
        if not self.per_tensor:
            lines.append(("per tensor", "left out: the sums would exceed a quarter of the memory"))
        lines += [
            (f"refused {n.first}, {n.second}", reason)
            for n, reason in self.refused.items()
            if isinstance(n, LayerPair)
        ]
        computed = [metric for metric, reason in self.metrics.items() if not reason]
        if self.metrics:
            lines.append(("computes", ", ".join(computed) or "nothing"))
        lines += [(f"skips {metric}", why) for metric, why in self.metrics.items() if why]
        return lines


def make_plan(
    header: Header,
    needs: Iterable[Need],
    layout: Layout,
    profile: Profile,
    budget: int,
    metrics: Mapping[str, str] | None = None,
) -> Plan:
    """Plan one pass.

    Args:
        header: The selected part of the run.
        needs: What the metrics declared.
        layout: Where the rows lie.
        profile: The device.
        budget: Bytes that all buffers together may take.
        metrics: Carried into the plan, for its reader.

    Returns:
        The plan.

    Raises:
        ResourceError: If not even the smallest tile fits the budget.
    """
    needs = list(needs)
    lanes = profile.lanes
    while True:
        # As many workers as there are lanes at most; the lanes do not depend on the workers.
        tried = replace(profile, workers=min(profile.workers, lanes))
        try:
            return _plan(header, needs, layout, tried, budget, metrics or {}, lanes)
        except ResourceError:
            if lanes == 1:
                raise
        lanes //= 2


def _plan(
    header: Header,
    needs: list[Need],
    layout: Layout,
    profile: Profile,
    budget: int,
    metrics: Mapping[str, str],
    lanes: int,
) -> Plan:
    kept, refused = affordable_layers(header, needs, budget // 4)
    rows = reduce_needs(header, kept)
    placed = placed_tensors(header, rows)
    precision = _precision(header, rows, placed, profile)
    if precision == "float32":
        lanes = min(lanes, max(2, sum(tensor.spec.size for tensor in placed) // LANE_COLUMNS))
    once, block = tensor_bytes(header, rows), profile.band_block
    while lanes > 1 and once * lanes + total_bytes(header, rows, lanes, block) > budget // 8:
        lanes //= 2
    profile = replace(profile, workers=min(profile.workers, lanes))
    own = once * lanes
    per_tensor = own <= budget // 4
    totals = total_bytes(header, rows, lanes, block)
    fixed = {
        "sums": totals + (own if per_tensor else 0),
        "layer matrices": matrix_bytes(header, rows, budget),
        "set aside for libraries": min(max(budget - 3 * LIBRARIES_BYTES, 0), LIBRARIES_BYTES),
    }
    shape = Shaper(
        header, rows, layout, profile, budget - sum(fixed.values()), budget, lanes
    ).best()
    strips = tuple(cut_strips(header, rows, layout.chunk_columns, shape.width))
    blocks = tuple(make_blocks(header, rows, shape.units, shape.cuts)) if strips else ()
    widest = max((strip.columns for strip in strips), default=0)
    several = len(blocks) > 1
    carries = tuple(rows.carry(track) if several else 0 for track in range(len(rows.tracks)))
    return Plan(
        header=header,
        layout=layout,
        profile=profile,
        rows=rows,
        strips=strips,
        blocks=blocks,
        columns=shape.columns,
        lanes=lanes,
        cell=max(_LEAST_CELL, -(-widest // lanes)),
        carries=carries,
        per_tensor=per_tensor,
        refused=refused,
        memory={
            "tiles": slot_bytes(strips, blocks) * profile.slots,
            "scratch": shape.scratch if strips else 0,
            "carried rows": widest * 8 * (sum(carries) + len(rows.references)),
            **({"indices": widest * index_bytes(profile)} if profile.batched else {}),
            **fixed,
        },
        budget=budget,
        metrics=metrics,
        precision=precision,
    )


def _precision(
    header: Header, rows: RowNeeds, placed: list[PlacedTensor], profile: Profile
) -> Literal["float32", "float64"]:
    """Float32 if the pass is large and no row holds more digits."""
    elements = sum(
        spec.size * len(rows.needed[stream])
        for tensor in placed
        for stream, spec in tensor.specs.items()
    )
    narrow = all(
        spec.dtype in _WITHIN_FLOAT32
        for stream in rows.needed
        for spec in header.tensors[stream].values()
    )
    return "float32" if narrow and elements > profile.single_above else "float64"
