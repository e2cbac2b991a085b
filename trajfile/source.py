"""What a conversion copies: one or several trajectories, all of them or a selection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import msgspec

from trajfile.consecutive import Consecutive
from trajfile.containers.base import Container
from trajfile.in_force import in_force
from trajfile.schema import Manifest
from trajfile.selected import Selected
from trajfile.selection import StepSlice, as_texts
from trajfile.version import __version__

#: Where in the metadata a selection says what it is of.
CONVERTED_FROM = "converted_from"


@dataclass(frozen=True)
class Source:
    """What is copied.

    Attributes:
        view: It, as a container.
        manifest: The manifest of the copy: that of `view`, but for the program.
        uuid: The copy's identity.
        facts: What tells it from any other conversion.
    """

    view: Container
    manifest: Manifest
    uuid: str
    facts: dict[str, Any]


def source_of(
    containers: Sequence[Container],
    *,
    params: Sequence[str] | str | None,
    steps: slice | str | None,
) -> Source:
    """What is to be copied.

    Args:
        containers: One or several trajectories.
        params: Globs over tensor names; None for all.
        steps: Which steps; None for all.

    Returns:
        The source; with its uuid if all of a single trajectory is taken.

    Raises:
        UsageError: If a selection is empty or the trajectories are not parts of one run.
    """
    globs = None if params is None else as_texts(params)
    chosen = StepSlice.parse(steps)
    facts: dict[str, Any] = {
        "sources": [_facts(container) for container in containers],
        "params": globs,
        "steps": str(chosen),
    }
    view: Container = containers[0] if len(containers) == 1 else Consecutive(containers)
    uuid = view.uuid
    if not (len(containers) == 1 and globs is None and chosen == StepSlice()):
        rates = in_force(view, chosen)
        carried = {name: len(at) for name, (at, _) in rates.items()}
        if carried:
            facts["carried"] = carried
        # Derived and not drawn, so that a conversion done again gives the same trajectory.
        uuid = str(uuid5(NAMESPACE_URL, "trajfile:" + msgspec.json.encode(facts).decode()))
        said = _provenance(containers, view, globs, chosen, carried)
        view = Selected(view, globs, chosen, said, rates)
    written_by = view.manifest().software
    software = f"trajfile {__version__}" + (f", converted from {written_by}" if written_by else "")
    if written_by.startswith(f"trajfile {__version__}"):
        software = written_by
    return Source(view, msgspec.structs.replace(view.manifest(), software=software), uuid, facts)


def _facts(container: Container) -> dict[str, Any]:
    commits = container.commits()
    content = msgspec.json.encode(container.manifest()) + commits.astype("<i8").tobytes()
    return {
        "uuid": container.uuid,
        "commits": len(commits),
        "content": sha256(content).hexdigest(),
    }


def _provenance(
    containers: Sequence[Container],
    view: Container,
    globs: list[str] | None,
    steps: StepSlice,
    carried: dict[str, int],
) -> dict[str, Any]:
    """The metadata, with a record of what this is of after those that are there."""
    metadata = dict(view.manifest().metadata)
    before = metadata.get(CONVERTED_FROM)
    record: dict[str, Any] = {"uuids": [container.uuid for container in containers]}
    if steps != StepSlice():
        record["steps"] = str(steps)
    if globs is not None:
        record["params"] = globs
    if carried:
        record["carried"] = carried
    metadata[CONVERTED_FROM] = [*(before if isinstance(before, list) else []), record]
    return metadata
