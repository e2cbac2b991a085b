"""A pass at work: one thread reads ahead, the others multiply.

Where chunks lie plainly in a file, the one that reads ahead only finds them, and those that
multiply read them too (`trajfile.engine.direct`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Event, Thread
from typing import NoReturn

import numpy as np
import torch

from trajfile.containers.base import Container
from trajfile.engine.arena import padded
from trajfile.engine.collecting import collect, wanted
from trajfile.engine.columns import Region, Strip
from trajfile.engine.device import Machine, Slot
from trajfile.engine.direct import Direct, UnreadError, direct, readable, worth_while
from trajfile.engine.families import Families
from trajfile.engine.fused import Fused, kernels
from trajfile.engine.lanes import Held, Lane, Tile
from trajfile.engine.matrices import Collector
from trajfile.engine.multiply import Worker
from trajfile.engine.plan import Plan
from trajfile.engine.products import Sums
from trajfile.engine.schedule import ActivePair, RegionWork, active_pairs, schedule
from trajfile.engine.shares import Shares
from trajfile.engine.staging import Part, read_tile, tile_parts
from trajfile.engine.totals import totals_layout
from trajfile.errors import Damaged
from trajfile.stopwatch import at

Progress = Callable[[int, int], None]

_SLOTS = 2


@dataclass(frozen=True, eq=False)
class Partial:
    """What a pass over some of the strips brought; it can be sent to another process.

    Attributes:
        sums: The inner products over their columns, NumPy arrays.
        collected: What the matrix kernels will want of them.
        bytes_read: Recorded bytes read.
        peak_bytes: Bytes of all buffers.
        device: What multiplied.
    """

    sums: Sums
    collected: Collector
    bytes_read: int
    peak_bytes: int
    device: str


@dataclass(frozen=True, eq=False)
class _Staged:
    """A tile that was read, and what of it is told when it is done."""

    tile: Tile
    bytes_read: int


class Pass:
    """A pass over some strips, to be run once.

    Args:
        plan: The plan, made for the profile of `machine`.
        strips: Some of its strips.
        container: Where the rows are read from.
        machine: Where they are multiplied.
        progress: Called with the bytes done and the bytes in all, after every tile.
    """

    def __init__(
        self,
        plan: Plan,
        strips: Sequence[Strip],
        container: Container,
        machine: Machine,
        progress: Progress,
    ) -> None:
        self.plan, self.container, self.machine, self.progress = plan, container, machine, progress
        self.strips = strips
        layout = totals_layout(plan)
        workers = plan.profile.workers
        compiled = kernels() if plan.precision == "float32" else None
        scratch = 4 * plan.scratch_elements
        size = Held.size(plan) + padded(*[plan.slot_bytes] * _SLOTS, *[scratch] * workers)
        arena = machine.arena(size) if compiled is not None else None
        if arena is None:
            self.slots = [machine.slot(plan.slot_bytes) for _ in range(_SLOTS)]
        else:
            pieces = [arena.take(plan.slot_bytes) for _ in range(_SLOTS)]
            self.slots = [Slot(piece, piece) for piece in pieces]
        self.held = Held(plan, machine, arena)
        self.fused = None if arena is None else Fused(plan, arena, self.held, compiled, layout)
        within = None if len(strips) == len(plan.strips) else _elements(strips)
        self.collector = Collector(plan.header, plan.rows.layers, within)
        wanted = self.collector if plan.rows.layers else None
        families = Families(plan, strips) if plan.profile.batched else None
        self.workers = [
            Worker(plan, machine, self.held, families, arena, self.fused, wanted)
            for _ in range(workers)
        ]
        self.lanes = [Lane(plan, machine, number, layout) for number in range(plan.lanes)]
        self.free: SimpleQueue[Slot | None] = SimpleQueue()
        self.told: SimpleQueue[_Staged | BaseException] = SimpleQueue()
        self.shares: Shares[_Staged] = Shares(len(self.lanes) + 1)  # one more for the collector
        self.stop = Event()
        self.bytes_read = 0
        self.work: dict[tuple[int, tuple[ActivePair, ...]], RegionWork] = {}

    def run(self) -> Partial:
        """Make the pass.

        Returns:
            What it brought.

        Raises:
            Damaged: If a checksum fails or a committed chunk is missing.
        """
        for slot in self.slots:
            self.free.put(slot)
        with at("wait"):
            self._run_threads()
        with at("products"):
            return self._conclude()

    def _run_threads(self) -> None:
        threads = [Thread(target=self._read_ahead, name="trajfile-reader", daemon=True)]
        for number, worker in enumerate(self.workers):
            name = f"trajfile-worker-{number}"
            threads.append(Thread(target=self._work_off, args=(worker,), name=name, daemon=True))
        for thread in threads:
            thread.start()
        try:
            for _ in range(len(self.strips) * len(self.plan.blocks)):
                done = self.told.get()
                if isinstance(done, BaseException):
                    raise done
                self.bytes_read += done.bytes_read
                self.progress(self.bytes_read, self.plan.bytes_to_read)
        finally:
            self.stop.set()
            self.free.put(None)
            self.shares.close()
            for thread in threads:
                thread.join()

    def _read_ahead(self) -> None:
        """Fill free slots with tiles, in order, until all are read or the pass stops."""
        with at("wait"), self._told():
            for strip in self.strips:
                for number, block in enumerate(self.plan.blocks):
                    slot = self.free.get()
                    if slot is None or self.stop.is_set():
                        return
                    self.machine.wait_reusable(slot)
                    work = tuple(self._work(region, number) for region in strip.regions)
                    tile = Tile(strip, block, tile_parts(strip, block), slot, work)
                    with at("read"):
                        self.shares.put(self._staged(tile))

    def _staged(self, tile: Tile) -> _Staged:
        """A tile read into its slot, unless workers can read it piece by piece."""
        pieces = self._pieces(tile)
        if pieces is not None:
            return _Staged(replace(tile, direct=pieces), pieces.bytes_read)
        return _Staged(tile, self._read(tile))

    def _read(self, tile: Tile) -> int:
        recorded, buffer = self.plan.layout.rows, tile.slot.host.numpy()
        return read_tile(self.container, tile.parts, tile.block, recorded, buffer)

    def _pieces(self, tile: Tile) -> Direct | None:
        """How workers read a tile piece by piece; None where it is to be staged."""
        if self.fused is None or not readable(self.container, tile.parts, tile.block):
            return None
        intervals = [
            (work, interval)
            for region, work in zip(tile.strip.regions, tile.work, strict=True)
            for interval in self.fused.intervals(tile, region)
        ]
        cells = sum(len(list(lane.cells(*at))) for _, at in intervals for lane in self.lanes)
        mean = tile.strip.columns // cells
        if not worth_while(tile.parts, mean):
            return None
        found = direct(self.container, tile.parts, tile.block, self.plan.layout.rows)
        if found is None:
            return None
        for work, interval in intervals:
            frame = self.fused.frame(tile, work, interval)
            if frame is None or not worth_while(tile.parts, min(mean, frame.columns)):
                return None
        found.pieces.announce()
        return found

    def _work_off(self, worker: Worker) -> None:
        """Take shares of tiles until there are no more."""
        torch.set_num_threads(1)  # of this thread's own: each computes on one core
        with at("wait"), self._told():
            while (share := self.shares.take()) is not None:
                staged, number, first = share
                if first:
                    with at("copy"), self.machine.scope():
                        self.machine.upload(staged.tile.slot, plan_end(staged.tile.parts))
                    self.shares.opened(staged)
                if number < len(self.lanes):
                    with at("products"):
                        self._multiply(worker, staged.tile, self.lanes[number])
                elif staged.tile.direct is None:
                    with at("copy"):
                        self._collect(staged.tile)
                if self.shares.done(staged, number):
                    self._check(staged.tile)
                    with self.machine.scope():
                        self.machine.issued(staged.tile.slot)
                    self.free.put(staged.tile.slot)
                    self.told.put(staged)

    def _multiply(self, worker: Worker, tile: Tile, lane: Lane) -> None:
        try:
            worker.multiply(tile, lane, self.stop)
        except UnreadError:
            self._refuse(tile, "could not be read, and then could")

    def _check(self, tile: Tile) -> None:
        """Refuse a tile that was read piece by piece and does not match its checksums."""
        if tile.direct is not None and not self.stop.is_set() and not tile.direct.holds():
            self._refuse(tile, "failed a checksum, and then held it: it changed meanwhile")

    def _refuse(self, tile: Tile, found: str) -> NoReturn:
        """Say what is wrong with a tile, as reading it whole does; or what was found at first."""
        self._read(tile)
        raise Damaged(
            f"{self.container.path} {found}; try again when no other program writes to it",
            path=self.container.path,
            rule="SUM-003",
        )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Hand an error of a thread to the one that waits for tiles."""
        try:
            yield
        except BaseException as error:
            self.told.put(error)

    def _work(self, region: Region, block: int) -> RegionWork:
        """What to form in a region during a block; alike for regions held by the same streams."""
        key = block, active_pairs(self.plan, region)
        if key not in self.work:
            self.work[key] = schedule(self.plan, self.plan.blocks[block], key[1])
        return self.work[key]

    def _collect(self, tile: Tile) -> None:
        """Keep what the matrix kernels will want of a tile."""
        buffer = tile.slot.host.numpy()
        for region in tile.strip.regions:
            for some in wanted(self.collector, tile, region, (region.start, region.stop)):
                part, positions = some.part, tile.block.staged[some.part.stream]
                rows = np.arange(len(positions))
                collect(*(self.collector, [some], part.of(buffer), part.run.start, positions, rows))

    def _conclude(self) -> Partial:
        peak = (
            sum(slot.host.nbytes for slot in self.slots) * self.plan.profile.slots // 2
            + sum(worker.scratch.nbytes for worker in self.workers)
            + sum(lane.nbytes for lane in self.lanes)
            + self.held.nbytes
            + self.collector.nbytes
        )
        self.slots.clear()
        with np.errstate(invalid="ignore"):  # inf - inf
            first, *others = [lane.conclude() for lane in self.lanes]
        for sums in others:
            first.merge(sums)
        precision = ", float32 products" if self.plan.precision == "float32" else ""
        label = self.machine.label + precision
        return Partial(first, self.collector, self.bytes_read, peak, label)


def _elements(strips: Sequence[Strip]) -> dict[str, tuple[int, int]]:
    """For each tensor that strips meet, its first element there and that after the last."""
    found: dict[str, tuple[int, int]] = {}
    for strip in strips:
        for region in strip.regions:
            for piece in region.pieces:
                first, stop = piece.element, piece.element + piece.stop - piece.start
                before = found.get(piece.tensor, (first, stop))
                found[piece.tensor] = min(first, before[0]), max(stop, before[1])
    return found


def plan_end(parts: tuple[Part, ...]) -> int:
    """Bytes of a tile's buffer that are in use."""
    return max((part.offset + part.nbytes for part in parts), default=0)
