"""Analysing a run: what metrics need, one pass over the file, what they make of it.

This is the only place where the engine and the metrics meet.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from trajfile import __version__
from trajfile.around import findings_around, select, sentence, steps_of, told
from trajfile.cache.folder import Folder, default_folder
from trajfile.choice import Options, choose
from trajfile.engine.budget import parse_bytes
from trajfile.engine.header import Header
from trajfile.engine.measurements import Measurements, Replayed
from trajfile.engine.needs import Replay
from trajfile.engine.plan import Plan, make_plan
from trajfile.engine.profiles import profile_for
from trajfile.errors import MissingStream, NotATrajectory, UsageError
from trajfile.measuring import Measuring, layout_of
from trajfile.metrics.base import Metric, Skipped, collect
from trajfile.metrics.optimizers import optimizer_note
from trajfile.paths import local_path, run_path
from trajfile.reader import Trajectory, opened
from trajfile.report import (
    SEVERITIES,
    Finding,
    MetricResult,
    Report,
    Run,
    Source,
    StreamSource,
)
from trajfile.schema import GRADIENTS, PARAMS
from trajfile.skipping import leave_out, located, look
from trajfile.stopwatch import at, running
from trajfile.untrusted import Limits, answered, ask, limits
from trajfile.verdict import compose

Progress = Callable[[int, int], None]
ReplayFactory = Callable[..., Any]
Passing = Callable[..., Any]


def analyze(
    source: str | os.PathLike[str] | Trajectory,
    metrics: Iterable[str] | str | None = None,
    device: str = "auto",
    memory: str | int = "2GiB",
    params: Sequence[str] | str | None = None,
    steps: slice | str | None = None,
    options: Options | None = None,
    progress: Progress | None = None,
    replay: str | ReplayFactory | None = None,
    around: int | None = None,
    window: int | None = None,
    *,
    skip_damaged: bool = False,
    untrusted: bool | Limits = False,
    cache: bool | str | os.PathLike[str] = False,
    profile: bool = False,
    through: Passing | None = None,
) -> Report:
    """Compute metrics of a recorded run in one pass over the file.

    Args:
        source: The run: its path, or the run already opened.
        metrics: Ids of the metrics to compute; all by default.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:<i>``.
        memory: What all buffers together may take, such as ``2GiB``.
        params: Globs over tensor names; all by default.
        steps: Which steps: a slice of step values or its text ``a:b:s``; all by default.
        options: Options of metrics by ``<metric>.<option>``.
        progress: Called with the bytes done and the bytes in all.
        replay: ``file.py:factory``, or the factory: the user's loss, from which the exact
            sharpness is measured at some snapshots, and gradients where none were recorded (see
            `trajfile.replay.factory.load_loss`). Runs the user's code, as nothing else does.
        around: The step of an event, instead of `steps`: everything is narrowed to the snapshots
            around it, and the tensors that moved first are named.
        window: How many snapshots to keep before that step and after it; 20 by default.
        skip_damaged: Whether to read the file once beforehand to find rows that are damaged, and
            to do without them. What was left out is a finding ``damage.<stream>``.
        untrusted: Whether to read the file in a process apart, with limits on its memory and
            time; `source` must then be a path. There is no progress to call.
        cache: Whether measurements are kept, in the user's folder or in the one named, and used
            for as long as the run is unchanged; of a run that grew, only new rows are read where
            that suffices (spec/performance.md). Never with `replay`, `skip_damaged` or
            `untrusted`.
        profile: Whether to note where the time goes, thread by thread; not with `untrusted`.
        through: What makes the pass, instead of this process alone: called with the plan, the
            container, the machine and `progress` (see `trajfile.engine.stream.run_pass`).

    Returns:
        The report.

    Raises:
        UsageError: If an argument names something that does not exist, or the replayed code
            fails or does not go with the run.
        MissingStream: If a metric asked for by name needs a stream the run does not hold.
        FormatError: If the run cannot be read, or a row of it is damaged and not to be skipped.
        ResourceError: If the device is not there or the memory does not suffice.
    """
    started = time.perf_counter()
    chosen, movers = choose(metrics, options or {})
    budget = parse_bytes(memory)
    profile_for(device)  # a misspelt device is told before anything is opened
    if untrusted:
        return _apart(
            *(source, limits(untrusted), budget, replay),
            metrics=None if metrics is None else [metric.id for metric in chosen],
            params=[params] if isinstance(params, str) else params,
            steps=steps if not isinstance(steps, slice) else _text_of(steps),
            device=device,
            memory=budget,
            options=options,
            around=around,
            window=window,
            skip_damaged=skip_damaged,
        )
    with running(wanted=profile) as watch, opened(source) as trajectory, ExitStack() as kept:
        event = select(trajectory, steps, around, window)
        narrowed = steps if event is None else steps_of(event)
        recorded = replace(trajectory.header(params, narrowed), replay=replay is not None)
        left = look(trajectory, recorded) if skip_damaged else []
        recorded = leave_out(recorded, left)
        read, replayed = _replayed(replay, trajectory, recorded, chosen, budget, kept)
        header = recorded
        if read is not trajectory:
            header = leave_out(replace(read.header(params, narrowed), replay=True), left)
        needs = _declare(chosen, header, asked=metrics is not None)
        moving = movers.needs(header) if event is not None else frozenset()
        declared = collect([*needs.values(), moving])

        # What a replay or a look at the rows adds is not known from the file alone.
        folder = None if replay is not None or skip_damaged else _folder(cache)
        measuring = Measuring(read, str(device), budget, progress, folder, through)
        with located(trajectory, recorded):
            made = measuring.of(header, declared)
        measured = replace(made.measurements, replayed=replayed)
        with at("metrics"):
            results = {metric.id: _result(metric, needs[metric.id], measured) for metric in chosen}
        if event is not None:
            event = told(event, movers, moving, measured)
        return Report(
            source=_source(trajectory, recorded),
            run=Run(
                device=made.device,
                wall_seconds=time.perf_counter() - started,
                bytes_read=made.bytes_read,
                passes=made.passes,
                memory_budget_bytes=budget,
                peak_buffer_bytes=made.peak_bytes,
                around=event,
                cached=made.cached,
                profile=None if watch is None else watch.told(),
            ),
            metrics=results,
            findings=_most_severe_first(
                results,
                [out.finding for out in left] + ([] if event is None else findings_around(event)),
            ),
            verdict=("" if event is None else sentence(event) + " ") + compose(results, header),
            trajfile_version=__version__,
        )


def plan(
    source: str | os.PathLike[str] | Trajectory,
    metrics: Iterable[str] | str | None = None,
    device: str = "auto",
    memory: str | int = "2GiB",
    params: Sequence[str] | str | None = None,
    steps: slice | str | None = None,
    options: Options | None = None,
    replay: str | ReplayFactory | None = None,
    around: int | None = None,
    window: int | None = None,
    *,
    skip_damaged: bool = False,
) -> Plan:
    """What `analyze` would read and hold, found out without reading a tensor.

    Args:
        source: As in `analyze`, like all that follow.
        metrics: Ids of the metrics.
        device: The device; ``auto`` is planned as the processor, and no device is looked for.
        memory: What all buffers together may take.
        params: Globs over tensor names.
        steps: Which steps.
        options: Options of metrics.
        replay: The user's loss, which is not run here; the plan is of the pass beside it.
        around: The step of an event.
        window: How many snapshots to keep before that step and after it.
        skip_damaged: Whether to look for damaged rows, which reads the tensors after all.

    Returns:
        The plan.

    Raises:
        UsageError: If an argument names something that does not exist.
        MissingStream: If a metric asked for by name needs a stream the run does not hold.
        FormatError: If the run cannot be read.
        ResourceError: If the memory does not suffice.
    """
    chosen, movers = choose(metrics, options or {})
    budget = parse_bytes(memory)
    profile = profile_for(device)
    with opened(source) as trajectory:
        event = select(trajectory, steps, around, window)
        narrowed = steps if event is None else steps_of(event)
        header = replace(trajectory.header(params, narrowed), replay=replay is not None)
        header = leave_out(header, look(trajectory, header) if skip_damaged else [])
        needs = _declare(chosen, header, asked=metrics is not None)
        moving = movers.needs(header) if event is not None else frozenset()
        reasons = {i: n.reason if isinstance(n, Skipped) else "" for i, n in needs.items()}
        layout = layout_of(trajectory, header)
        wanted = collect([*needs.values(), moving])
        return make_plan(header, wanted, layout, profile, budget, reasons)


def _folder(cache: bool | str | os.PathLike[str]) -> Folder | None:
    """Where measurements are kept, if they are."""
    if not isinstance(cache, bool):
        return Folder(local_path(cache))
    path = default_folder() if cache else None
    return None if path is None else Folder(path)


def _apart(
    source: str | os.PathLike[str] | Trajectory,
    within: Limits,
    budget: int,
    replay: object,
    **selection: Any,
) -> Report:
    """`analyze` in a process apart; what it answers is checked as a stranger's."""
    if isinstance(source, Trajectory):
        raise UsageError("an untrusted run is opened in a process apart: pass its path")
    if replay is not None:
        raise UsageError("replay runs your own code beside the file, which untrusted rules out")
    path = run_path(source)
    if isinstance(path, Path) and not path.exists():
        raise NotATrajectory(f"{path}: no such file or folder", path=path, rule="CORE-001")
    answer = ask("analyze", path, within, budget, **selection)
    return answered(lambda: Report.from_dict(answer.report or {}), path)


def _text_of(steps: slice) -> str:
    return ":".join("" if n is None else str(n) for n in (steps.start, steps.stop, steps.step))


def _declare(
    metrics: list[Metric], header: Header, *, asked: bool
) -> dict[str, frozenset[Any] | Skipped]:
    """What each metric needs, or why it cannot be computed."""
    needs = {metric.id: _fitting(metric.needs(header), header) for metric in metrics}
    for name, need in needs.items():
        if asked and isinstance(need, Skipped) and need.stream:
            raise MissingStream(f"{name}: {need.reason}", metric=name, stream=need.stream)
    return needs


def _fitting(need: frozenset[Any] | Skipped, header: Header) -> frozenset[Any] | Skipped:
    """A remedy that helps: to a folder of checkpoints nothing can be appended or declared."""
    if not (isinstance(need, Skipped) and header.checkpoints):
        return need
    if need.stream == GRADIENTS and not need.remedy:
        return replace(need, remedy="give your loss with --replay, or record a run")
    if need.stream and not need.remedy:
        return replace(need, remedy=f"checkpoints hold none; record a run with {need.stream}")
    stated = need.remedy.replace("declare ", "record a run with ", 1)
    return replace(need, remedy=stated)


def _replayed(
    source: str | ReplayFactory | None,
    trajectory: Trajectory,
    header: Header,
    metrics: list[Metric],
    memory: int,
    kept: ExitStack,
) -> tuple[Trajectory, dict[Replay, Replayed]]:
    """The run, with gradients of the user's loss if it has none, and what else that loss says."""
    if source is None:
        return trajectory, {}
    declared = collect(metric.needs(header) for metric in metrics)
    wanted = [need for need in declared if isinstance(need, Replay)]
    bare = header.has(PARAMS) and not header.has(GRADIENTS)
    if not wanted and not bare:
        raise UsageError(
            "replay serves the metric sharpness, on a run that holds params: ask for it, or leave "
            "the replay out"
        )
    from trajfile.replay.factory import load_loss
    from trajfile.replay.gradients import with_gradients  # brings PyTorch, like the pass
    from trajfile.replay.run import replay

    loss = load_loss(source, header.metadata)
    answers = {need: replay(loss, trajectory, header, need, memory) for need in wanted}
    if bare:
        float64 = any(need.float64 for need in wanted)
        completed = with_gradients(loss, trajectory, header, float64=float64)
        trajectory = kept.enter_context(completed)
    return trajectory, answers


def _result(metric: Metric, need: frozenset[Any] | Skipped, measured: Measurements) -> MetricResult:
    """A metric's result; a failure of one metric is its own result and spares the others."""
    if isinstance(need, Skipped):
        skipped = _without_numbers(metric, "skipped", need.reason)
        return msgspec.structs.replace(skipped, remedy=need.advice)
    try:
        with np.errstate(all="ignore"):
            result = metric.compute(measured)
    except Exception as error:  # whatever it is, the others are good
        reason = f"it failed with {type(error).__name__}: {error}"
        finding = Finding(f"{metric.id}.failed", "error", f"The metric {metric.id} failed: {error}")
        return msgspec.structs.replace(
            _without_numbers(metric, "error", reason), findings=[finding]
        )
    if result.status == "skipped":
        return result
    noted = [*result.notes, *optimizer_note(metric.id, measured.header)]
    return msgspec.structs.replace(result, notes=noted)


def _without_numbers(metric: Metric, status: Any, reason: str) -> MetricResult:
    return MetricResult(
        status=status,
        reason=reason,
        definition=metric.definition,
        reference=metric.reference,
        options=metric.options,
    )


def _most_severe_first(
    results: Mapping[str, MetricResult], leading: Iterable[Finding]
) -> list[Finding]:
    findings = [*leading, *(finding for result in results.values() for finding in result.findings)]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _source(trajectory: Trajectory, header: Header) -> Source:
    """What was analysed: the selected part of the run."""
    leading = PARAMS if header.tensors.get(PARAMS) else next(iter(header.tensors), PARAMS)
    tensors = header.tensors.get(leading, {})
    return Source(
        path=trajectory.path,
        container=trajectory.container.kind,
        format_version=trajectory.container.format_version,
        uuid=trajectory.uuid,
        parameters=sum(spec.size for spec in tensors.values()),
        streams={
            stream: StreamSource(
                rows=len(steps),
                first_step=int(steps[0]) if len(steps) else None,
                last_step=int(steps[-1]) if len(steps) else None,
            )
            for stream, steps in header.steps.items()
        },
        tensors=len(tensors),
        optimizer=dict(header.optimizer),
        metadata=dict(header.metadata),
    )
