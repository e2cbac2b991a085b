"""Bytes of what a pass holds: tiles, sums and matrices."""

from __future__ import annotations

import numpy as np

from trajfile.engine.blocks import Block
from trajfile.engine.columns import Strip
from trajfile.engine.header import Header
from trajfile.engine.matrices import BATCH_BYTES, layer_bytes
from trajfile.engine.rows import RowNeeds
from trajfile.engine.shape import ALIGNMENT
from trajfile.schema import GRADIENT_SAMPLES


def align(size: int) -> int:
    """A size rounded up to the alignment of the parts of a tile, in bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def slot_bytes(strips: tuple[Strip, ...], blocks: tuple[Block, ...]) -> int:
    """Bytes of the largest tile, its parts aligned."""
    shapes = {
        (
            tuple((stream, strip.staged_bytes(stream)) for stream in strip.runs),
            sum(map(len, strip.runs.values())),
        )
        for strip in strips
    }
    return max(
        (
            sum(size * len(block.staged[stream]) for stream, size in streams) + parts * ALIGNMENT
            for streams, parts in shapes
            for block in blocks
        ),
        default=0,
    )


def matrix_bytes(header: Header, rows: RowNeeds, budget: int) -> int:
    """Bytes for the matrices of layers, several steps of a pair at once."""
    if not rows.layers:
        return 0
    spare = max(0, budget - 8 * BATCH_BYTES)  # a small budget is for what must be held
    return layer_bytes(header, rows.layers) + min(BATCH_BYTES, spare)


def band_bytes(rows: RowNeeds, block: int) -> int:
    """Bytes of the sums of runs of lags, before they are added to the others.

    Args:
        rows: The reduced needs.
        block: Rows of a dense block, where lags are many.

    Returns:
        The bytes, for a lane.
    """
    length = [len(rows.tracks[rows.sequences[pair.left].track].positions) for pair in rows.pairs]
    return sum(
        8 * count * (len(pair.lags) + min(block, count))
        for count, pair in zip(length, rows.pairs, strict=True)
        if len(pair.lags) > 1
    )


def total_bytes(header: Header, rows: RowNeeds, lanes: int, block: int) -> int:
    """Bytes of the sums over all tensors: those of lanes and of runs of lags, and the answers.

    Args:
        header: The selected part of the run.
        rows: The reduced needs.
        lanes: How many lanes there are.
        block: As in `band_bytes`.

    Returns:
        The bytes.
    """
    answers = 0
    for pair in rows.pairs:
        length = len(rows.tracks[rows.sequences[pair.left].track].positions) * 8
        answers += length * len(pair.lags)
    steps = header.steps[GRADIENT_SAMPLES] if rows.samples else np.empty(0, np.int64)
    counts = np.unique(steps, return_counts=True)[1]
    grams = 8 * int((counts**2 + 1).sum())
    return lanes * (answers + band_bytes(rows, block) + grams) + answers


def tensor_bytes(header: Header, rows: RowNeeds) -> int:
    """Bytes of the sums of single tensors."""
    total = 0
    if rows.samples:
        steps = len(np.unique(header.steps[GRADIENT_SAMPLES]))
        total += 8 * steps * len(header.tensors[GRADIENT_SAMPLES])
    for pair in rows.pairs:
        tracks = [rows.tracks[rows.sequences[side].track] for side in (pair.left, pair.right)]
        left, right = (header.tensors[track.stream] for track in tracks)
        held = sum(name in right for name in left)
        total += 8 * len(tracks[0].positions) * len(pair.tensor_lags) * held
    return total
