"""The pass: one thread reads ahead, the others multiply, and every byte is read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Event, Thread

import numpy as np
import torch

from trajfile.containers.base import Container
from trajfile.engine.columns import Region
from trajfile.engine.device import Machine, Slot
from trajfile.engine.matrices import Collector, balance
from trajfile.engine.measurements import Measurements
from trajfile.engine.multiply import Held, Tile, Worker
from trajfile.engine.plan import Plan
from trajfile.engine.products import conclude
from trajfile.engine.schedule import ActivePair, RegionWork, active_pairs, schedule
from trajfile.engine.staging import Part, read_tile, tile_parts
from trajfile.errors import ResourceError

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PassResult:
    """What a pass brought, and what it took.

    Attributes:
        measurements: The answers to the needs.
        bytes_read: Recorded bytes read.
        peak_bytes: Bytes of all buffers.
        device: What multiplied.
    """

    measurements: Measurements
    bytes_read: int
    peak_bytes: int
    device: str


def run_pass(
    plan: Plan, container: Container, machine: Machine, progress: Progress | None = None
) -> PassResult:
    """Make the pass that a plan describes.

    Args:
        plan: The plan, made for the profile of `machine`.
        container: Where the rows are read from.
        machine: Where they are multiplied.
        progress: Called with the bytes done and the bytes in all, after every tile.

    Returns:
        The measurements, and what they took.

    Raises:
        Damaged: If a checksum fails or a committed chunk is missing.
        ResourceError: If the device has not the memory.
    """
    try:
        with _one_thread_each(machine):
            return _Pass(plan, container, machine, progress or (lambda done, total: None)).run()
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"{machine.label} has not the memory for the pass: it takes {plan.peak_bytes} bytes; "
            "allow less with --memory, or use --device cpu.",
            needed=plan.peak_bytes,
        ) from error


@contextmanager
def _one_thread_each(machine: Machine) -> Iterator[None]:
    """Let each worker compute on one core; they are as many as there are cores."""
    before, tf32 = torch.get_num_threads(), torch.backends.cuda.matmul.allow_tf32
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.backends.cuda.matmul.allow_tf32 = tf32


@dataclass(frozen=True, eq=False)
class _Staged:
    strip: int
    block: int
    parts: tuple[Part, ...]
    slot: Slot
    bytes_read: int


class _Pass:
    def __init__(
        self, plan: Plan, container: Container, machine: Machine, progress: Progress
    ) -> None:
        self.plan, self.container, self.machine, self.progress = plan, container, machine, progress
        self.slots = [machine.slot(plan.slot_bytes) for _ in range(2)]
        self.free: SimpleQueue[Slot | None] = SimpleQueue()
        self.ready: SimpleQueue[_Staged | BaseException | None] = SimpleQueue()
        self.held = Held(plan, machine)
        self.workers = [
            Worker(plan, machine, self.held, number) for number in range(plan.profile.workers)
        ]
        self.collector = Collector(plan.header, plan.rows.layers)
        self.stop = Event()
        self.bytes_read = 0
        self.work: dict[tuple[int, tuple[ActivePair, ...]], RegionWork] = {}

    def run(self) -> PassResult:
        for slot in self.slots:
            self.free.put(slot)
        reader = Thread(target=self._read_ahead, name="trajfile-reader", daemon=True)
        pool = ThreadPoolExecutor(len(self.workers), "trajfile-worker")
        reader.start()
        try:
            while (staged := self.ready.get()) is not None:
                if isinstance(staged, BaseException):
                    raise staged
                self._multiply(staged, pool)
        finally:
            self.stop.set()
            self.free.put(None)
            reader.join()
            pool.shutdown()
        return self._conclude()

    def _read_ahead(self) -> None:
        """Fill free slots with tiles, in order, until all are read or the pass stops."""
        try:
            for number, strip in enumerate(self.plan.strips):
                for block_number, block in enumerate(self.plan.blocks):
                    slot = self.free.get()
                    if slot is None or self.stop.is_set():
                        return
                    self.machine.wait_reusable(slot)
                    parts = tile_parts(strip, block)
                    recorded = self.plan.layout.rows
                    buffer = slot.host.numpy()
                    count = read_tile(self.container, parts, block, recorded, buffer)
                    self.ready.put(_Staged(number, block_number, parts, slot, count))
            self.ready.put(None)
        except BaseException as error:
            self.ready.put(error)

    def _multiply(self, staged: _Staged, pool: ThreadPoolExecutor) -> None:
        strip, block = self.plan.strips[staged.strip], self.plan.blocks[staged.block]
        slot = staged.slot
        work = tuple(self._work(region, staged.block) for region in strip.regions)
        tile = Tile(strip, block, staged.parts, slot, work)
        with self.machine.scope():
            self.machine.upload(slot, plan_end(staged.parts))
        tasks = [pool.submit(worker.multiply, tile, self.stop) for worker in self.workers]
        self._collect(tile)
        for task in tasks:
            task.result()
        with self.machine.scope():
            self.machine.issued(slot)
        self.free.put(slot)
        self.bytes_read += staged.bytes_read
        self.progress(self.bytes_read, self.plan.bytes_to_read)

    def _work(self, region: Region, block: int) -> RegionWork:
        """What to form in a region during a block; alike for regions held by the same streams."""
        key = block, active_pairs(self.plan, region)
        if key not in self.work:
            self.work[key] = schedule(self.plan, self.plan.blocks[block], key[1])
        return self.work[key]

    def _collect(self, tile: Tile) -> None:
        """Keep what the matrix kernels will want of a tile."""
        buffer = tile.slot.host.numpy()
        for part in tile.parts:
            for region in tile.strip.regions:
                for piece in region.pieces:
                    a, b = max(piece.start, part.run.start), min(piece.stop, part.run.stop)
                    if a < b and self.collector.wants(part.stream, piece.tensor):
                        self.collector.gather(
                            part.stream,
                            piece.tensor,
                            piece.element + a - piece.start,
                            tile.block.staged[part.stream],
                            part.of(buffer)[:, a - part.run.start : b - part.run.start],
                        )

    def _conclude(self) -> PassResult:
        peak = (
            sum(slot.host.nbytes for slot in self.slots) * self.plan.profile.slots // 2
            + sum(worker.scratch.nbytes + worker.sums.nbytes for worker in self.workers)
            + self.held.nbytes
            + self.collector.nbytes
        )
        self.slots.clear()
        first, *others = [worker.sums for worker in self.workers]
        for sums in others:
            first.merge(sums)
        measurements = conclude(self.plan, first)
        with np.errstate(all="ignore"):
            balances = {
                need: balance(
                    self.plan.header,
                    need,
                    self.collector,
                    self.plan.layout.rows,
                    self.machine.device,
                )
                for need in self.plan.rows.layers
            }
        return PassResult(
            replace(measurements, layer_balances=balances),
            self.bytes_read,
            peak,
            self.machine.label + (", float32 products" if self.plan.precision == "float32" else ""),
        )


def plan_end(parts: tuple[Part, ...]) -> int:
    """Bytes of a tile's buffer that are in use."""
    return max((part.offset + part.nbytes for part in parts), default=0)
