"""A pass over a run: every byte is read once, whoever makes which part of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from trajfile.containers import checksum
from trajfile.containers.base import Container
from trajfile.engine.columns import Strip
from trajfile.engine.device import Machine
from trajfile.engine.matrices import Collector, balance
from trajfile.engine.measurements import Measurements
from trajfile.engine.plan import Plan
from trajfile.engine.products import conclude
from trajfile.engine.running import Partial, Pass, Progress
from trajfile.errors import ResourceError


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
    whole = run_part(plan, plan.strips, container, machine, progress)
    return conclude_pass(plan, [whole], machine.device)


def run_part(
    plan: Plan,
    strips: Sequence[Strip],
    container: Container,
    machine: Machine,
    progress: Progress | None = None,
) -> Partial:
    """Make the part of a pass that concerns some of its strips.

    Args:
        plan: The plan, made for the profile of `machine`.
        strips: Some of its strips.
        container: Where the rows are read from.
        machine: Where they are multiplied.
        progress: Called with the bytes done and the bytes in all, after every tile.

    Returns:
        The sums over their columns; the same bits on any number of threads.

    Raises:
        Damaged: If a checksum fails or a committed chunk is missing.
        ResourceError: If the device has not the memory.
    """
    if plan.bytes_to_read >= checksum.LARGE_BYTES:
        checksum.prepare()
    try:
        with _one_thread_each(machine):
            told = progress or (lambda done, total: None)
            return Pass(plan, strips, container, machine, told).run()
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


def conclude_pass(plan: Plan, parts: Iterable[Partial], device: torch.device) -> PassResult:
    """Merge the parts of a pass.

    Args:
        plan: The plan.
        parts: Parts that together are all its strips, in the order of the strips: that they are
            merged in this order makes the last bit of every sum the same, whoever made them.
        device: Where matrices are multiplied.

    Returns:
        The measurements, and what they took; the peak is that of the largest part.
    """
    left = iter(parts)
    first = next(left)
    sums, collector, read, peak = first.sums, first.collected, first.bytes_read, first.peak_bytes
    for number, part in enumerate(left):
        if not number:
            collector = Collector(plan.header, plan.rows.layers)
            collector.take(first.collected)
        sums.merge(part.sums)
        collector.take(part.collected)
        read, peak = read + part.bytes_read, max(peak, part.peak_bytes)
    measurements = conclude(plan, sums)
    with np.errstate(all="ignore"):
        balances = {
            need: balance(
                plan.header,
                need,
                collector,
                plan.layout.rows,
                device,
                plan.memory["layer matrices"],
            )
            for need in plan.rows.layers
        }
    return PassResult(replace(measurements, layer_balances=balances), read, peak, first.device)
