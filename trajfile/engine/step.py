"""What is done to some columns of some tensors, by compiled loops, and the sums that come of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trajfile import stopwatch
from trajfile.engine.arena import Arena
from trajfile.engine.columns import Piece
from trajfile.engine.direct import UnreadError
from trajfile.engine.fetching import Fetch
from trajfile.engine.frames import Frame
from trajfile.engine.lanes import Lane
from trajfile.engine.places import Places
from trajfile.engine.program import Program
from trajfile.engine.rows import Index


class Loops:
    """The compiled loops, and the memory that they work in.

    Args:
        arena: Holds all rows.
        kernels: The module of the loops.

    Attributes:
        arena: The same.
        kernels: The same.
        views: The arena as float32, uint16 and uint32.
    """

    def __init__(self, arena: Arena, kernels: Any) -> None:
        self.arena, self.kernels = arena, kernels
        self.views = tuple(arena.view(dtype) for dtype in (np.float32, np.uint16, np.uint32))


class Step:
    """Columns of some tensors, and the sums of each of these.

    Args:
        loops: The compiled loops.
        program: What is done.
        pieces: The tensors.
        lane: Whose sums to add to.
        scratch: Scratch memory; its end is taken for the sums, a frame lies where it begins.
        chunk: Columns at a time.
    """

    def __init__(
        self,
        loops: Loops,
        program: Program,
        pieces: tuple[Piece, ...],
        lane: Lane,
        scratch: torch.Tensor,
        chunk: int,
    ) -> None:
        self._loops, self._program, self._pieces, self._lane = loops, program, pieces, lane
        self._segments = np.array([(p.start, p.stop) for p in pieces], np.int64)
        self._sums = self._tensor_sums(scratch)
        self._into = chunk, loops.arena.offset(scratch), lane.totals, self._sums

    def multiply(self, places: Places, staged: torch.Tensor, columns: tuple[int, int]) -> None:
        """Form and multiply rows of a staged tile.

        Args:
            places: Where rows lie.
            staged: The tile.
            columns: Of which columns.
        """
        loops, program = self._loops, self._program
        base = places.at(loops.arena.offset(staged))
        self._copy(base, places, places.before, columns)
        loops.kernels.multiply(
            *(*loops.views, base, places.moves, places.half),
            *(program.code, program.masks, self._segments, *columns, *self._into),
        )
        self._copy(base, places, places.after, columns)

    def read_and_multiply(self, places: Places, frame: Frame, fetch: Fetch) -> None:
        """Read pieces, form their rows and multiply them, some rows at a time.

        Args:
            places: Where rows lie.
            frame: Where they are read to.
            fetch: What is read.

        Raises:
            UnreadError: If it cannot be read.
        """
        # What is kept of rows is taken before others come in their place.
        for phases in fetch.spans(frame):
            self._work_off(places, frame, phases, fetch)
            fetch.keep(frame, phases[1] - 1)

    def end(self) -> None:
        """Hand the sums of tensors to the lane."""
        for piece, values in zip(self._pieces, self._sums, strict=True):
            self._lane.add_tensor(self._program.own, piece.tensor, values)

    def _copy(self, base: Index, places: Places, copies: Index, columns: tuple[int, int]) -> None:
        if len(copies):
            loops = self._loops
            loops.kernels.copy_rows(*loops.views, base, places.half, copies, *columns)

    def _work_off(
        self, places: Places, frame: Frame, phases: tuple[int, int], fetch: Fetch
    ) -> None:
        from trajfile.engine.kernels_phases import work_off  # compiles only where it can be

        (x, halves, words), program = self._loops.views, self._program
        done, reading, verifying = work_off(
            (x, self._loops.arena.view(np.uint8), halves, words),
            *(fetch.pieces.table, fetch.pieces.places, frame.reads, frame.cuts),
            fetch.sums,
            (places.base, places.within, places.moves, places.half, places.before, places.after),
            *(program.code, frame.phases.cuts, program.masks, self._segments),
            *(fetch.columns, frame.columns, phases, *self._into, stopwatch.is_running()),
        )
        stopwatch.spent("read", reading)
        stopwatch.spent("verify", verifying)
        if not done:
            raise UnreadError

    def _tensor_sums(self, scratch: torch.Tensor) -> NDArray[np.float64]:
        """Sums for the tensors, zero, at the end of the scratch memory."""
        count = len(self._pieces) * self._program.own_size
        whole = scratch.numpy()
        end = len(whole) // 2 * 2
        sums = whole[end - 2 * count : end].view(np.float64)
        sums[:] = 0
        return sums.reshape(len(self._pieces), -1 if count else 0)
