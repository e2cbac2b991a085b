"""Markdown, for a pull request or a wiki."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from trajfile.audit.formats.result import Result, printable

#: Inputs that are told of one by one.
_SHOWN = 50


def markdown(result: Result) -> Iterator[str]:
    """The counts, then the worst inputs with what they broke."""
    total = result.summary
    yield "# trajfile audit\n\n"
    yield "| inputs | failing | clean | not examined | errors | warnings | known |\n"
    yield "|---|---|---|---|---|---|---|\n"
    yield (
        f"| {total.inputs} | {total.failing} | {total.clean} | {total.unexamined} "
        f"| {total.errors} | {total.warnings} | {total.known} |\n"
    )
    bad = (outcome for outcome in result.outcomes() if outcome.worst is not None)
    shown = 0
    for outcome in islice(bad, _SHOWN):
        shown += 1
        yield f"\n## {_escaped(outcome.path)}\n\n"
        for item in outcome.violations:
            if not item.known:
                yield f"* **{item.severity}** `{item.rule}`: {_escaped(item.message)}\n"
    left = total.inputs - total.clean - shown
    if left > 0:
        yield f"\n{left} more inputs have findings.\n"


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&-])", r"\\\1", printable(text))
