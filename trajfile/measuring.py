"""Getting the declared quantities of a run: from the file, from the cache, or from both."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trajfile.cache.entry import NOT_AN_ENTRY, SCHEMA, Entry, Origin, name_of
from trajfile.cache.folder import Folder
from trajfile.cache.growth import Extension, extension, merged, united
from trajfile.cache.stamp import stamp
from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements
from trajfile.engine.needs import Need
from trajfile.engine.plan import Plan, make_plan
from trajfile.engine.shape import Layout
from trajfile.errors import ResourceError
from trajfile.reader import Trajectory
from trajfile.schema import GRADIENT_SAMPLES
from trajfile.version import __version__

Progress = Callable[[int, int], None]
Cached = Literal["", "all", "older rows"]

#: New rows are read apart only if the whole would be at least so much more.
_WORTH = 1.25


@dataclass(frozen=True)
class Measured:
    """What was measured, and what it took.

    Attributes:
        measurements: The answers to the needs.
        device: What multiplied.
        bytes_read: Recorded bytes read.
        passes: How many times the run was gone through.
        peak_bytes: Bytes of all buffers.
        cached: What came from the cache: nothing, all, or products of rows measured before.
    """

    measurements: Measurements
    device: str
    bytes_read: int
    passes: int
    peak_bytes: int
    cached: Cached = ""


def layout_of(trajectory: Trajectory, header: Header) -> Layout:
    """Where the selected rows of a run lie, and how its lanes are stored."""
    rows = {
        stream: trajectory.row_index(
            stream, np.unique(steps) if stream == GRADIENT_SAMPLES else steps
        )
        for stream, steps in header.steps.items()
    }
    container = trajectory.container
    lanes = {(s, spec.dtype) for s, named in header.tensors.items() for spec in named.values()}
    # Looked up now, so that the plan holds no file and can be sent to other processes.
    return Layout(rows, _Widths({lane: container.chunk_columns(*lane) for lane in lanes}))


@dataclass(frozen=True)
class _Widths:
    """Widths of stored chunks by (stream, lane)."""

    known: Mapping[tuple[str, str], int]

    def __call__(self, stream: str, lane: str) -> int:
        return self.known[stream, lane]


@dataclass(frozen=True)
class Measuring:
    """How declared quantities are measured.

    Attributes:
        trajectory: The run.
        device: As in `trajfile.analyze`.
        budget: Bytes that all buffers together may take.
        progress: Called with the bytes done and the bytes in all.
        folder: Where measurements are kept; None to keep and to use none.
        through: What makes a pass, in place of `trajfile.engine.stream.run_pass`.
    """

    trajectory: Trajectory
    device: str
    budget: int
    progress: Progress | None = None
    folder: Folder | None = None
    through: Callable[..., Any] | None = None

    def of(self, header: Header, needs: frozenset[Need]) -> Measured:
        """Measure.

        Args:
            header: The selection.
            needs: What metrics declared.

        Returns:
            The measurements.

        Raises:
            Damaged: If a checksum fails or a committed chunk is missing.
            ResourceError: If the device is not there or the memory does not suffice.
        """
        if self.folder is None:
            return self._passes(header, [(header, needs)])
        before = self._origin(header)
        base: Entry | None = None
        how: Extension | None = None
        for entry in self.folder.entries(before.run):
            with suppress(NOT_AN_ENTRY):
                if found := self._stands(entry, before, header, needs):
                    self.folder.used(entry)
                    return found
                if how := self._grown(entry, header, needs):
                    base = entry
                    break
        # Not above: what goes wrong with the run itself is to be told.
        made = self._passes(header, _jobs(header, needs, how), how)
        after = self._origin(header)
        if not before.stamp or after.stamp != before.stamp:
            before = replace(before, stamp="")  # it is being written: good to be grown from
        if before.stamp or not header.checkpoints:
            self.folder.store(before, needs, made.measurements, made.device)
            if base is not None:
                self.folder.drop(base)
        return made

    def _origin(self, header: Header) -> Origin:
        commits = self.trajectory.container.commits()
        return Origin(
            self._run(header),
            stamp(Path(self.trajectory.path)) or "",
            len(commits),
            _digest(commits),
        )

    def _run(self, header: Header) -> str:
        """A name for all that entries must share beside rows."""
        tensors = [
            (stream, [(t.name, t.shape, t.dtype, t.offset, t.first_row) for t in held.values()])
            for stream, held in header.tensors.items()
        ]
        known = SCHEMA, __version__, _code(), self.trajectory.uuid, self.trajectory.container.kind
        return name_of((known, tensors, self.device, self.budget))

    def _stands(
        self, entry: Entry, now: Origin, header: Header, needs: frozenset[Need]
    ) -> Measured | None:
        """What an entry says, if it is of these very rows."""
        of = entry.document
        if not entry.covers(needs) or not self._same(entry, now, header):
            return None
        steps = entry.steps()
        if steps.keys() != header.steps.keys() or not all(
            np.array_equal(steps[stream], header.steps[stream]) for stream in steps
        ):
            return None
        if not of.per_tensor or any(name_of(need) in of.refused for need in needs):
            # Something was left out for want of memory: of fewer needs, it might fit.
            plan = self._planned(header, needs)
            asked = [n for n in needs if name_of(n) in of.refused]
            if plan.per_tensor != of.per_tensor or not plan.refused.keys() >= {*asked}:
                return None
        found = entry.measurements(header, needs)
        return Measured(found, of.device, 0, 0, 0, "all")

    def _same(self, entry: Entry, now: Origin, header: Header) -> bool:
        """Whether the files are untouched, or were only appended to."""
        of = entry.document
        if now.stamp and of.stamp == now.stamp:
            return of.commits == now.commits and of.history == now.history
        return self._appended(entry, header)

    def _appended(self, entry: Entry, header: Header) -> bool:
        """Whether all commits of then are in force, and others came after them."""
        of, commits = entry.document, self.trajectory.container.commits()
        if header.checkpoints or not 0 < of.commits < len(commits):
            return False
        return _digest(commits[: of.commits]) == of.history

    def _grown(self, entry: Entry, header: Header, needs: frozenset[Need]) -> Extension | None:
        """How an entry of fewer rows is completed, if that spares reading most of the others."""
        if not self._appended(entry, header):
            return None
        how = extension(entry, header, needs)
        if how is None:
            return None
        try:
            whole = self._planned(header, needs)
            parts = [self._planned(*job) for job in _jobs(header, needs, how)]
        except ResourceError:
            return None
        spared = whole.bytes_to_read > _WORTH * sum(part.bytes_to_read for part in parts)
        kept = {whole.per_tensor, how.kept.per_tensor_kept, *(part.per_tensor for part in parts)}
        return how if spared and len(kept) == 1 else None

    def _planned(self, header: Header, needs: frozenset[Need]) -> Plan:
        from trajfile.engine.profiles import profile_for

        layout = layout_of(self.trajectory, header)
        return make_plan(header, needs, layout, profile_for(self.device), self.budget)

    def _passes(
        self,
        header: Header,
        jobs: list[tuple[Header, frozenset[Need]]],
        how: Extension | None = None,
    ) -> Measured:
        # Only here is PyTorch needed, and it takes seconds to import.
        from trajfile.engine.device import machine_for
        from trajfile.engine.stream import run_pass

        machine = machine_for(self.device)
        plans = [
            make_plan(part, needs, layout_of(self.trajectory, part), machine.profile, self.budget)
            for part, needs in jobs
        ]
        total = sum(plan.bytes_to_read for plan in plans)
        results, done = [], 0
        for plan in plans:
            told = None if self.progress is None else _beyond(self.progress, done, total)
            make = self.through or run_pass
            results.append(make(plan, self.trajectory.container, machine, told))
            done += results[-1].bytes_read
        parts = [result.measurements for result in results]
        if how is not None:
            parts[0] = merged(how.kept, parts[0], header)
        return Measured(
            united(parts),
            results[0].device,
            done,
            sum(plan.passes for plan in plans),
            max(result.peak_bytes for result in results),
            "" if how is None else "older rows",
        )


def _jobs(
    header: Header, needs: frozenset[Need], how: Extension | None
) -> list[tuple[Header, frozenset[Need]]]:
    """What is to be read, and what for."""
    if how is None:
        return [(header, needs)]
    return [(how.tail, how.grown), *([(header, how.anew)] if how.anew else [])]


def _beyond(progress: Progress, done: int, total: int) -> Progress:
    return lambda now, _: progress(done + now, total)


def _digest(commits: NDArray[np.int64]) -> str:
    return blake2b(np.ascontiguousarray(commits).tobytes(), digest_size=20).hexdigest()


def _code() -> str:
    """What the code that measures looks like, so that another state of it measures anew."""
    top = Path(__file__).parent
    facts: list[object] = []
    for folder in ("engine", "containers", "importers"):
        try:
            with os.scandir(top / folder) as listed:
                files = sorted((e.name, e.stat()) for e in listed if e.name.endswith(".py"))
        except OSError:
            continue
        facts += [(name, found.st_size, found.st_mtime_ns) for name, found in files]
    return name_of(facts)
