"""Runs in memory, recorded without the writer: a dense run as a container and its trajectory."""

from __future__ import annotations

import math

import numpy as np

from tests.twin import Dense
from trajfile.containers.base import Commit, Rows
from trajfile.containers.memory import MemoryContainer
from trajfile.engine.device import Machine
from trajfile.engine.plan import Plan, make_plan
from trajfile.engine.shape import Profile
from trajfile.engine.stream import PassResult, run_pass
from trajfile.measuring import layout_of
from trajfile.reader import Trajectory
from trajfile.schema import Manifest, StreamSpec, TensorSpec


class Chunked(MemoryContainer):
    """The in-memory container with chunks of a chosen width, so that small runs span several."""

    width = 262144

    def chunk_columns(self, stream: str, lane: str) -> int:
        return self.width


def recorded(
    dense: Dense, first_rows: dict[str, dict[str, int]] | None = None, width: int = 262144
) -> Chunked:
    """Record a dense run; `first_rows` says for a stream from which row on a tensor exists."""
    streams = []
    for stream, named in dense.arrays.items():
        offsets: dict[str, int] = {}
        specs = []
        for name, rows in named.items():
            dtype = rows.dtype.name
            spec = TensorSpec(
                name,
                tuple(rows.shape[1:]),
                dtype,
                offsets.get(dtype, 0),
                (first_rows or {}).get(stream, {}).get(name, 0),
            )
            offsets[dtype] = spec.offset + spec.size
            specs.append(spec)
        streams.append(StreamSpec(stream, tuple(specs)))
    container = Chunked(
        Manifest(
            tuple(streams),
            tuple(dense.scalars),
            optimizer=dense.optimizer,
            groups={k: tuple(v) for k, v in dense.groups.items()},
            gradient=dense.gradient,
        )
    )
    container.width = width
    every = [np.asarray(steps) for steps in dense.steps.values()]
    every += [np.asarray(steps) for steps, _ in dense.scalars.values()]
    for step in np.unique(np.concatenate(every)):
        rows = {}
        for spec in streams:
            at = np.flatnonzero(np.asarray(dense.steps[spec.name]) == step)
            if not len(at):
                continue
            lanes = {
                lane: np.concatenate(
                    [
                        dense.arrays[spec.name][t.name][at].reshape(len(at), -1)
                        for t in spec.tensors
                        if t.dtype == lane
                    ],
                    axis=1,
                )
                for lane in spec.lanes
            }
            samples = np.arange(len(at), dtype=np.int32) if spec.sampled else None
            rows[spec.name] = Rows(lanes, samples)
        scalars = {
            name: float(values[np.asarray(steps) == step][0])
            for name, (steps, values) in dense.scalars.items()
            if step in np.asarray(steps)
        }
        container.append(Commit(int(step), rows, scalars))
    return container


def plan_for(
    container: Chunked,
    needs: object,
    *,
    budget: int = 2**30,
    workers: int = 2,
    scratch: int = 2**20,
    slots: int = 2,
    device: str = "cpu",
    params: object = None,
    steps: object = None,
    single_above: float = math.inf,
    **more: object,
) -> Plan:
    """The plan of a pass over a recorded run; `more` goes to the profile."""
    trajectory = Trajectory(container)
    header = trajectory.header(params, steps)
    profile = Profile(device, workers, slots, scratch, single_above, **more)
    return make_plan(header, needs, layout_of(trajectory, header), profile, budget)


def measured(container: Chunked, needs: object, **options: object) -> PassResult:
    """Plan and run one pass."""
    plan = plan_for(container, needs, **options)
    return run_pass(plan, container, Machine(plan.profile))
