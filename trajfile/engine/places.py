"""Where the rows of a program lie: in a staged tile or a frame, among held rows, or in scratch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trajfile.engine.arena import Arena
from trajfile.engine.blocks import Block
from trajfile.engine.columns import staged_dtype
from trajfile.engine.frames import Frame
from trajfile.engine.lanes import Held
from trajfile.engine.phases import staged_rows
from trajfile.engine.plan import Plan
from trajfile.engine.program import Program
from trajfile.engine.rows import Index
from trajfile.engine.schedule import carried_rows
from trajfile.engine.staging import Part

#: Room between scratch rows, so that a column's coordinates do not all compete for one cache set.
PAD = 16

#: Where a row's offset counts from: the arena, or twice or once the memory that is read to, since
#: twice as many bfloat16 numbers as float32 numbers lie ahead of it.
_FLOATS, _HALVES = 1, 2


@dataclass(frozen=True, eq=False)
class Places:
    """Offsets of all rows of a program, for columns whose streams each lie in one part of a tile.

    Rows that are copied to reference rows come last, beyond those of the program.

    Attributes:
        base: Where each row begins: of a bfloat16 row in numbers of two bytes, else of four.
        within: Whether `base` counts from the memory that is read to, once or, for bfloat16, twice;
            otherwise it counts from the beginning of the arena, or of the scratch memory.
        moves: Whether the offset moves with the columns; otherwise it counts from the scratch.
        half: Whether the row is bfloat16.
        before: Rows to be copied to reference rows at first, and where to.
        after: Rows to be copied to carried rows at last, and where to.
    """

    base: Index
    within: Index
    moves: Index
    half: Index
    before: Index
    after: Index

    def at(self, memory: int) -> Index:
        """Offsets of the rows of a tile that is staged, whose first column is column 0.

        Args:
            memory: Where it is in the arena, in numbers of four bytes.

        Returns:
            The offsets, so that any column added to one of a row that moves leads to its number.
        """
        return self.base + self.within * memory


def place_rows(
    plan: Plan,
    block: Block,
    program: Program,
    parts: Mapping[str, Part],
    held: Held,
    arena: Arena,
    room: int | Frame,
) -> Places:
    """Find where rows lie.

    Args:
        plan: The plan.
        block: The block.
        program: What is done during it.
        parts: For each stream the part that its rows lie in.
        held: The rows that outlive a block.
        arena: Holds all of it.
        room: The frame that rows are read to; or, if the tile is staged, the columns that formed
            rows have in the scratch memory, where they lie as far as the next chunk of columns.

    Returns:
        The places.
    """
    base, within = np.zeros(program.rows, np.int64), np.zeros(program.rows, np.int64)
    moves, half = np.ones(program.rows, np.int64), np.zeros(program.rows, np.int64)
    references = np.arange(len(plan.rows.references))
    base[references] = arena.offset(held.references) + references * held.width

    def found(stream: str, rows: Index) -> tuple[Index, int]:
        part = parts[stream]
        halves = int(staged_dtype(part.run.lane) == "bfloat16")
        item = 2 if halves else 4
        if isinstance(room, Frame):
            place = room.rows[stream]
            return (place.start + room.phases.slot[stream][rows] * place.stride) // item, halves
        width = part.run.stop - part.run.start
        return part.offset // item + rows * width - part.run.start, halves

    extra: list[tuple[int, int]] = []
    before: list[tuple[int, int]] = []
    for reference, row in enumerate(block.references):
        stream, _ = plan.rows.references[reference]
        if stream in parts:
            place, halves = found(stream, np.array([row], np.int64))
            if not program.copied[reference]:
                base[reference], within[reference] = place[0], _FLOATS
                continue
            before.append((program.rows + len(extra), int(base[reference])))
            extra.append((int(place[0]), halves))
    for stream, here, staged in staged_rows(plan, block, program):
        base[here], halves = found(stream, staged)
        half[here], within[here] = halves, _HALVES if halves else _FLOATS
    after: list[tuple[int, int]] = []
    for track, (first, count) in program.tracks.items():
        carried, kept = carried_rows(plan, block, track), held.carried[track]
        begin = arena.offset(kept)
        base[first : first + carried] = begin + held.width * np.arange(
            len(kept) - carried, len(kept)
        )
        for copy in block.copies[track]:
            if copy.held:
                base[first + carried + copy.into] = base[copy.start]
                within[first + carried + copy.into] = within[copy.start]
        for back in range(min(len(kept), count), 0, -1):
            after.append((first + count - back, begin + (len(kept) - back) * held.width))
    formed = np.flatnonzero(program.scratch >= 0)
    if isinstance(room, Frame):
        begin, stride = room.formed.start // 4, room.formed.stride // 4
        base[formed] = begin + program.scratch[formed] * stride
        within[formed] = _FLOATS
    else:
        base[formed] = program.scratch[formed] * (room + PAD)
        moves[formed] = 0
    more = np.array([halves for _, halves in extra], np.int64)
    return Places(
        base=np.concatenate([base, np.array([place for place, _ in extra], np.int64)]),
        within=np.concatenate([within, np.where(more, _HALVES, _FLOATS)]),
        moves=np.concatenate([moves, np.ones(len(extra), np.int64)]),
        half=np.concatenate([half, more]),
        before=np.array(before, np.int64).reshape(len(before), 2),
        after=np.array(after, np.int64).reshape(len(after), 2),
    )
