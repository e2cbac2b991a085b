"""Which metrics to compute, and with which options: names checked, values in the right type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

import msgspec

from trajfile.errors import UsageError
from trajfile.metrics import METRICS
from trajfile.metrics.base import Metric
from trajfile.metrics.first_movers import FirstMovers

Options = Mapping[str, float | int | str | bool | None]

#: All that takes options.
_OPTED: dict[str, type[Metric | FirstMovers]] = {**METRICS, FirstMovers.id: FirstMovers}


def choose(
    metrics: Iterable[str] | str | None, options: Options
) -> tuple[list[Metric], FirstMovers]:
    """The metrics asked for, in the table's order, with their options.

    Args:
        metrics: Ids, or their text separated by commas; None for all.
        options: Values by ``<metric>.<option>``; those of `FirstMovers` by ``around.<option>``.

    Returns:
        The metrics, and what ranks tensors around an event.

    Raises:
        UsageError: If there is no such metric or option, or a value does not fit.
    """
    if metrics is None:
        asked = list(METRICS)
    else:
        asked = metrics.split(",") if isinstance(metrics, str) else list(metrics)
        asked = [name.strip() for name in asked]
        for name in asked:
            if name not in METRICS:
                raise UsageError(_unknown("metric", name, list(METRICS)))
    settings: dict[str, dict[str, Any]] = {}
    for key, value in options.items():
        metric, _, option = key.partition(".")
        if metric not in _OPTED:
            raise UsageError(_unknown("metric", metric, list(METRICS)))
        settings.setdefault(metric, {})[option] = _setting(_OPTED[metric], option, value)
    chosen = [METRICS[name](**settings.get(name, {})) for name in METRICS if name in asked]
    return chosen, FirstMovers(**settings.get(FirstMovers.id, {}))


def _setting(metric: type[Metric | FirstMovers], option: str, value: Any) -> Any:
    """An option's value in the option's type."""
    known = [field.name for field in fields(metric)]
    if option not in known:
        raise UsageError(_unknown(f"option of {metric.id}", option, known))
    wanted = get_type_hints(metric)[option]
    try:
        return msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(f"option {metric.id}.{option}={value!r} is refused: {error}.") from error


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"there is no {what} called {name!r}; there are {', '.join(known) or 'none'}.{hint}"
