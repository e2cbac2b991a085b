"""The screens of `trajfile metrics`: the list, and the page of one metric."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .published import PUBLISHED
from .terminal import Terminal
from .text import clean, listed

if TYPE_CHECKING:
    from trajfile.metrics.base import Metric

#: An entry of a Google-style section: its name, and its text with continuation lines.
_ENTRY = re.compile(r"^    (\w+): (.*(?:\n      .*)*)", re.MULTILINE)


def listing(terminal: Terminal, metrics: Mapping[str, type[Metric]]) -> Iterator[RenderableType]:
    """One line a metric.

    Args:
        terminal: Where it is shown.
        metrics: The metrics by id.

    Yields:
        Blocks to show one after another.
    """
    grid = _pairs()
    for metric_id, metric in metrics.items():
        grid.add_row(terminal.text(metric_id, "accent"), terminal.text(metric.title))
    yield grid
    yield Text()
    yield terminal.line("trajfile metrics ID shows the definition, ingredients and options of one.")


def page(
    terminal: Terminal, metrics: Mapping[str, type[Metric]], metric_id: str
) -> Iterator[RenderableType]:
    """One metric in full.

    Args:
        terminal: Where it is shown.
        metrics: The metrics by id.
        metric_id: Which one.

    Yields:
        Blocks to show one after another.

    Raises:
        UsageError: If there is no such metric; the nearest id is named.
    """
    from trajfile.errors import UsageError

    if metric_id not in metrics:
        near = get_close_matches(metric_id, metrics, n=1, cutoff=0.4)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"no metric {clean(metric_id)!r}: {guess}there are {listed(metrics)}")
    metric = metrics[metric_id]
    yield terminal.line((metric_id, "title"), f"  {metric.title}")
    yield Text()
    yield terminal.line(_flowing(metric.definition))
    yield Text()
    facts = _pairs()
    facts.add_row(terminal.text("needs", "accent"), terminal.text(_flowing(metric.ingredients)))
    if published := PUBLISHED.get(metric_id):
        facts.add_row(terminal.text("series", "accent"), terminal.text(listed(published.series)))
        facts.add_row(terminal.text("summary", "accent"), terminal.text(listed(published.summary)))
    facts.add_row(terminal.text("from", "accent"), terminal.text(_flowing(metric.reference)))
    yield facts
    if options := fields(metric):
        yield Text()
        yield terminal.line(
            ("options", "accent"), f"  set with --option {metric_id}.NAME=VALUE; defaults shown"
        )
        explained = _explained(metric)
        grid = _pairs()
        for option in options:
            grid.add_row(
                terminal.text(f"{option.name} = {_default(option)}"),
                terminal.text(explained.get(option.name, "")),
            )
        yield Padding(grid, (0, 0, 0, 2))


def _pairs() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _default(option: Field[Any]) -> str:
    value = option.default
    if value is MISSING and option.default_factory is not MISSING:
        value = option.default_factory()
    return (
        "none" if value is None else str(value).lower() if isinstance(value, bool) else (str(value))
    )


def _explained(metric: type[Metric]) -> dict[str, str]:
    """What each option means, as the metric's own docstring explains it under Attributes."""
    text = inspect.cleandoc(metric.__doc__ or "").partition("Attributes:\n")[2]
    return {name: _flowing(body) for name, body in _ENTRY.findall(text)}


def _flowing(text: str) -> str:
    return " ".join(text.split())
