"""Checking what the manifest states against itself: streams, groups, optimizer, gradients."""

from __future__ import annotations

from collections.abc import Iterator

from trajfile.provenance import gradient_problems, optimizer_problems
from trajfile.report import Finding
from trajfile.rules import finding
from trajfile.schema import (
    GRADIENT_SAMPLES,
    GRADIENTS,
    NOT_YET,
    PARAMS,
    UPDATES,
    Manifest,
    StreamSpec,
)

_SHAPED_LIKE_PARAMS = (GRADIENTS, UPDATES, GRADIENT_SAMPLES)


def check_statements(manifest: Manifest) -> Iterator[Finding]:
    """What the manifest in force states that cannot be, or that an analysis will miss.

    Args:
        manifest: The revision in force.

    Yields:
        A finding for each rule broken.
    """
    params = manifest.by_name.get(PARAMS)
    if params is not None:
        for stream in manifest.streams:
            yield from _against_params(stream, params)
    holders = manifest.streams if params is None else (params,)
    known = {t.name for stream in holders for t in stream.tensors if t.first_row != NOT_YET}
    for group, names in manifest.groups.items():
        unknown = [name for name in names if name not in known]
        if unknown and known:
            message = (
                f"group {group!r} names {unknown[0]!r}, which no snapshot holds: misspelt, unless "
                "it joins later"
            )
            yield finding("USE-007", "/manifest", message, group=group, tensors=unknown)
    for problem in optimizer_problems(manifest.optimizer):
        yield finding("CORE-014", "/manifest", problem)
    for problem in gradient_problems(manifest.gradient):
        yield finding("CORE-015", "/manifest", problem)
    unstated = [key for key in ("stage", "source") if manifest.gradient.get(key) is None]
    if unstated and {GRADIENTS, GRADIENT_SAMPLES} & set(manifest.by_name):
        message = f"gradients are recorded without stating their {' and '.join(unstated)}"
        yield finding("USE-002", "/manifest", message)


def _against_params(stream: StreamSpec, params: StreamSpec) -> Iterator[Finding]:
    where = f"/streams/{stream.name}"
    for tensor in stream.tensors:
        param = params.by_name.get(tensor.name)
        if param is None:
            message = f"{stream.name} holds {tensor.name!r}, which params does not"
            yield finding("STR-009", where, message, tensor=tensor.name)
        elif stream.name in _SHAPED_LIKE_PARAMS and tensor.shape != param.shape:
            message = (
                f"{stream.name} holds {tensor.name!r} with shape {tensor.shape}, expected "
                f"{param.shape} as in params"
            )
            yield finding("STR-009", where, message, tensor=tensor.name)
