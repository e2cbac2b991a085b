"""Tensors that joined a run after its first snapshot, and what a metric says of them."""

from __future__ import annotations

from trajfile.engine.header import Header
from trajfile.metrics.non_finite import listed
from trajfile.schema import PARAMS


def joined_late(header: Header) -> dict[str, int]:
    """The selected tensors of `params` that the first selected snapshot does not hold.

    Args:
        header: Of the run.

    Returns:
        By tensor the step it joined at, in recorded order; empty without params.
    """
    steps = header.steps.get(PARAMS)
    if steps is None or not len(steps):
        return {}
    joined = header.joined.get(PARAMS, {})
    return {
        name: joined[name]
        for name in header.tensors.get(PARAMS, {})
        if joined.get(name, 0) > steps[0]
    }


def late_note(header: Header, consequence: str) -> list[str]:
    """What follows from tensors that joined late.

    Args:
        header: Of the run.
        consequence: What a metric makes of them, the end of a sentence.

    Returns:
        One sentence, or none where all tensors are there from the first snapshot on.
    """
    late = joined_late(header)
    if not late:
        return []
    first, last = min(late.values()), max(late.values())
    when = f"step {first}" if first == last else f"steps {first} to {last}"
    several = "s" * (len(late) != 1)
    return [f"{len(late)} tensor{several} joined at {when}: {listed(list(late))}; {consequence}"]
