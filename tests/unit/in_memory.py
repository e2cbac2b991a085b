"""Recording into the in-memory container, which counts what is read of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from trajfile.containers.memory import MemoryContainer
from trajfile.memory import Pool
from trajfile.reader import Trajectory
from trajfile.recording import Recording
from trajfile.schema import Manifest


def record(
    appends: Iterable[tuple[int, Mapping, Mapping]],
    declared: Mapping[str, object] | None = None,
    **stated: object,
) -> MemoryContainer:
    """Append (step, streams, scalars) one after another, by the rules of the writer."""
    recording = Recording(Manifest(**stated))
    for stream, like in (declared or {}).items():
        recording = recording.declare(stream, like)
    container = None
    for step, streams, scalars in appends:
        pending = recording.prepare(step, streams, scalars)
        if container is None:
            container = MemoryContainer(pending.manifest)
            pending = replace(pending, before=replace(recording, written=pending.manifest))
        container.append(pending.pack(Pool().lease()))
        recording = pending.after()
    assert container is not None
    return container


def trajectory(*args, **kwargs) -> Trajectory:
    """The same, opened."""
    return Trajectory(record(*args, **kwargs))
