"""The screens of `trajfile metrics`: the list, and the page of one metric."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from rich.text import Text

from .grid import grid
from .prose import prose
from .published import PUBLISHED
from .terminal import Terminal
from .text import clean, listed

if TYPE_CHECKING:
    from trajfile.metrics.base import Metric

#: An entry of a Google-style section: its name, and its text with continuation lines.
_ENTRY = re.compile(r"^    (\w+): (.*(?:\n      .*)*)", re.MULTILINE)


def listing(terminal: Terminal, metrics: Mapping[str, type[Metric]]) -> Iterator[Text]:
    """One line a metric.

    Args:
        terminal: Where it is shown.
        metrics: The metrics by id.

    Yields:
        Lines to show one below the other.
    """
    yield from grid(
        terminal,
        [
            (terminal.text(metric_id, "accent"), terminal.text(metric.title))
            for metric_id, metric in metrics.items()
        ],
    )
    yield Text()
    yield terminal.line("trajfile metrics ID shows the definition, ingredients and options of one.")


def page(terminal: Terminal, metrics: Mapping[str, type[Metric]], metric_id: str) -> Iterator[Text]:
    """One metric in full.

    Args:
        terminal: Where it is shown.
        metrics: The metrics by id.
        metric_id: Which one.

    Yields:
        Lines to show one below the other.

    Raises:
        UsageError: If there is no such metric; the nearest id is named.
    """
    from trajfile.errors import UsageError
    from trajfile.pages import metric_pages

    if metric_id not in metrics:
        near = get_close_matches(metric_id, metrics, n=1, cutoff=0.4)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"no metric {clean(metric_id)!r}: {guess}there are {listed(metrics)}")
    metric = metrics[metric_id]
    yield terminal.line((metric_id, "title"), f"  {metric.title}")
    yield Text()
    yield from prose(terminal, metric_pages().get(metric_id, metric.definition))
    if published := PUBLISHED.get(metric_id):
        named = [("series", listed(published.series)), ("summary", listed(published.summary))]
        yield Text()
        yield from grid(
            terminal, [(terminal.text(name, "accent"), terminal.text(text)) for name, text in named]
        )
    if options := fields(metric):
        yield Text()
        yield terminal.line(
            ("options", "accent"), f"  set with --option {metric_id}.NAME=VALUE; defaults shown"
        )
        explained = _explained(metric)
        rows = [
            (
                terminal.text(f"{option.name} = {_default(option)}"),
                terminal.text(explained.get(option.name, "")),
            )
            for option in options
        ]
        yield from grid(terminal, rows, indent=2)


def _default(option: Field[Any]) -> str:
    value = option.default
    if value is MISSING and option.default_factory is not MISSING:
        value = option.default_factory()
    return (
        "none" if value is None else str(value).lower() if isinstance(value, bool) else (str(value))
    )


def _explained(metric: type[Metric]) -> dict[str, str]:
    """What each option means, as the docstring of the class that defines it explains it."""
    explained: dict[str, str] = {}
    for owner in reversed(metric.__mro__):
        text = inspect.cleandoc(owner.__doc__ or "").partition("Attributes:\n")[2]
        explained |= {name: _flowing(body) for name, body in _ENTRY.findall(text)}
    return explained


def _flowing(text: str) -> str:
    return " ".join(text.split())
