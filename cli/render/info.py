"""The screen of `trajfile info`."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from .cadence import cadence, distinct
from .grid import grid
from .terminal import Terminal
from .text import clip, count, counted, listed, number, shorten, size, steps_between

if TYPE_CHECKING:
    from trajfile.containers.base import Container
    from trajfile.reader import Trajectory
    from trajfile.schema import StreamSpec, TensorSpec

#: How many tensors, scalars or metadata entries are listed unless all are asked for.
_LISTED = 20
_LONGEST_VALUE = 300


def screen(terminal: Terminal, trajectory: Trajectory, *, everything: bool) -> Iterator[Text]:
    """What a run holds.

    Args:
        terminal: Where it is shown.
        trajectory: The open run.
        everything: List every tensor, scalar and metadata entry, however many.

    Yields:
        Lines to show one below the other.
    """
    most = None if everything else _LISTED
    manifest = trajectory.manifest
    yield terminal.line((trajectory.path, "title"))
    yield from _facts(terminal, _about(trajectory))
    yield from _section(terminal, "Streams", _streams(terminal, trajectory))
    yield from _section(terminal, "Scalars", _scalars(terminal, trajectory, most))
    seen: list[StreamSpec] = []
    for stream in manifest.streams:
        if any(_same(stream, other) for other in seen):
            continue
        seen.append(stream)
        title = "Tensors" if len(seen) == 1 else f"Tensors of {stream.name}"
        yield from _section(terminal, title, _tensors(terminal, stream, most))
    if manifest.groups:
        groups = {name: listed(tensors) for name, tensors in manifest.groups.items()}
        yield from _section(terminal, "Groups", _facts(terminal, groups, most))
    shown = {} if _are_checkpoints(trajectory.container) else manifest.metadata
    if shown:
        metadata = {name: _value(value) for name, value in shown.items()}
        yield from _section(terminal, "Metadata", _facts(terminal, metadata, most))


def _about(trajectory: Trajectory) -> dict[str, str]:
    container, manifest = trajectory.container, trajectory.manifest
    stored = container.stored_bytes()
    commits = container.commits()
    facts = {
        "container": _container(container),
        "uuid": container.uuid,
        "on disk": size(stored) + (f" ({count(stored)} bytes)" if stored >= 1024 else ""),
        "steps" if _are_checkpoints(container) else "commits": count(len(commits)) + _when(commits),
    }
    facts |= _left_out(manifest.metadata) if _are_checkpoints(container) else {}
    if manifest.software:
        facts["written by"] = manifest.software
    facts["optimizer"] = described(manifest.optimizer) or "not stated"
    if (
        "gradients" in manifest.by_name
        or "gradient_samples" in manifest.by_name
        or (manifest.gradient)
    ):
        facts["gradients"] = provenance(manifest.gradient) or "stage and source not stated"
    return facts


def _are_checkpoints(container: Container) -> bool:
    from trajfile.importers import CHECKPOINTS

    return container.kind.endswith(CHECKPOINTS)


def _container(container: Container) -> str:
    if _are_checkpoints(container):
        return f"{container.kind}, read in place, without checksums"
    version = ".".join(map(str, container.format_version))
    layout = ", archive (complete: nothing can be appended)"
    archive = getattr(container, "archive", False)  # which only what lies on a disk has
    return f"{container.kind}, format {version}{layout if archive else ''}"


def _left_out(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What of a folder of checkpoints is not read, and why."""
    facts = {}
    if metadata.get("steps_count"):
        facts["steps count"] = str(metadata["steps_count"])
    for what in ("files", "tensors"):
        reasons = metadata.get(f"{what}_left_out", {})
        said = [f"{listed(names)} ({reason})" for reason, names in reasons.items()]
        if said:
            facts[f"{what} left out"] = "; ".join(said)
    return facts


def described(facts: Mapping[str, Any]) -> str:
    """A mapping in one line: its name first, then ``key value`` for the rest."""
    named = [str(facts["name"])] if facts.get("name") else []
    rest = [f"{key} {_value(value)}" for key, value in facts.items() if key != "name"]
    return " · ".join(named + [part.replace("_", " ") for part in rest])


def provenance(gradient: Mapping[str, Any]) -> str:
    """Where gradients come from: ``raw mini-batch gradients, batch size 32, dataset size 1797``."""
    words = [str(gradient[key]).replace("_", "-") for key in ("stage", "source") if key in gradient]
    rest = described({k: v for k, v in gradient.items() if k not in {"stage", "source"}})
    rest = rest.replace(" · ", ", ")
    return ", ".join(filter(None, [" ".join([*words, "gradients"]) if words else "", rest]))


def _when(commits: NDArray[np.int64]) -> str:
    if not len(commits):
        return ""
    try:
        first, last = (
            datetime.fromtimestamp(int(ns) / 1e9, UTC) for ns in (commits[0, 2], commits[-1, 2])
        )
    except (ValueError, OverflowError, OSError):
        return ""  # a clock that was never set is no reason to fail
    end = f"{last:%H:%M:%S}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M:%S}"
    return f", {first:%Y-%m-%d %H:%M:%S} to {end} UTC"


def _value(value: Any) -> str:
    if isinstance(value, (dict, list)):
        text = json.dumps(value, ensure_ascii=False)
        return clip(text, _LONGEST_VALUE)
    if isinstance(value, str):
        return clip(value, _LONGEST_VALUE)
    return number(value, 6)


def _section(terminal: Terminal, title: str, body: Iterable[Text]) -> Iterator[Text]:
    lines = list(body)
    if lines:
        yield Text()
        yield terminal.line((title, "accent"))
        yield from lines


def _facts(terminal: Terminal, facts: Mapping[str, str], most: int | None = None) -> Iterator[Text]:
    rows = [
        [terminal.text(shorten(name, 30)), terminal.text(value)]
        for name, value in list(facts.items())[:most]
    ]
    if most is not None and len(facts) > most:
        rows.append([terminal.text(f"and {count(len(facts) - most)} more (--all)")])
    return grid(terminal, rows, indent=2)


def _table(
    terminal: Terminal,
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Collection[int],
) -> Iterator[Text]:
    """A heading and its rows; nothing if there are none."""
    cells = [[terminal.text(cell) for cell in row] for row in rows]
    if not cells:
        return iter(())
    heading = [terminal.text(title, "aside") for title in titles]
    return grid(terminal, [heading, *cells], right=right, indent=2)


def _streams(terminal: Terminal, trajectory: Trajectory) -> Iterator[Text]:
    rows = []
    for stream in trajectory.manifest.streams:
        steps = trajectory.steps(stream.name)
        samples = len(steps) / max(len(distinct(steps)), 1)
        often = cadence(steps) + (f", {number(samples)} samples each" if stream.sampled else "")
        lanes = ", ".join(f"{count(columns)} {dtype}" for dtype, columns in stream.lanes.items())
        one_row = f"{lanes or 'empty'}, {size(stream.row_bytes)}"
        rows.append((stream.name, count(len(steps)), _between(steps), often, one_row))
    return _table(terminal, ("", "rows", "steps", "cadence", "one row"), rows, right=(1,))


def _scalars(terminal: Terminal, trajectory: Trajectory, most: int | None) -> Iterator[Text]:
    rows: list[Sequence[str]] = []
    names = list(trajectory.manifest.scalars)
    for name in names[:most]:
        steps, values = trajectory.scalars[name]
        finite = values[np.isfinite(values)]
        ends = f"{number(float(values[0]))} → {number(float(values[-1]))}" if len(values) else ""
        extent = ""
        if len(finite):
            extent = f"{number(float(finite.min()))} … {number(float(finite.max()))}"
        if lost := len(values) - len(finite):
            extent += f" ({counted(lost, 'value')} not finite)"
        often = cadence(steps)
        rows.append((shorten(name, 30), count(len(values)), _between(steps), often, ends, extent))
    if most is not None and len(names) > most:
        rows.append((f"and {count(len(names) - most)} more (--all)",))
    titles = ("", "values", "steps", "cadence", "first → last", "range")
    return _table(terminal, titles, rows, right=(1,))


def _tensors(terminal: Terminal, stream: StreamSpec, most: int | None) -> Iterator[Text]:
    rows = [
        (
            shorten(tensor.name, max(terminal.width - 46, 20)),
            _shape(tensor),
            tensor.dtype + (f" from row {count(tensor.first_row)}" if tensor.first_row else ""),
            count(tensor.size),
            size(_bytes(tensor)),
        )
        for tensor in stream.tensors[:most]
    ]
    if most is not None and len(stream.tensors) > most:
        rest = stream.tensors[most:]
        elements, stored = sum(tensor.size for tensor in rest), sum(map(_bytes, rest))
        rows.append((f"and {count(len(rest))} more (--all)", "", "", count(elements), size(stored)))
    return _table(terminal, ("", "shape", "dtype", "elements", "size"), rows, right=(3, 4))


def _between(steps: NDArray[np.int64]) -> str:
    return steps_between(int(steps[0]), int(steps[-1])) if len(steps) else "none"


def _shape(tensor: TensorSpec) -> str:
    return " × ".join(map(str, tensor.shape)) or "scalar"


def _bytes(tensor: TensorSpec) -> int:
    from trajfile.dtypes import ITEM_SIZES

    return tensor.size * ITEM_SIZES[tensor.dtype]


def _same(stream: StreamSpec, other: StreamSpec) -> bool:
    """Whether two streams hold tensors of the same names, shapes and dtypes."""
    return [(t.name, t.shape, t.dtype) for t in stream.tensors] == [
        (t.name, t.shape, t.dtype) for t in other.tensors
    ]
