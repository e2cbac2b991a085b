"""Which metrics to compute, and with which options: names checked, values in type and range."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec

from trajfile.errors import UsageError
from trajfile.metrics import METRICS
from trajfile.metrics.base import Metric
from trajfile.metrics.first_movers import FirstMovers
from trajfile.metrics.ranges import told

Options = Mapping[str, float | int | str | bool | None]

_EXAMPLE = "{'periodicity.delta': 0.05}"

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
    asked = _asked(metrics)
    settings: dict[str, dict[str, Any]] = {}
    if not isinstance(options, Mapping):
        raise UsageError(f"options are a mapping such as {_EXAMPLE}, found {options!r}")
    for key, value in options.items():
        if not isinstance(key, str):
            raise UsageError(f"options are a mapping such as {_EXAMPLE}, found the key {key!r}")
        metric, _, option = key.partition(".")
        if metric not in _OPTED:
            raise UsageError(_unknown("metric", metric, list(METRICS)))
        settings.setdefault(metric, {})[option] = _setting(_OPTED[metric], option, value)
    chosen = [METRICS[name](**settings.get(name, {})) for name in METRICS if name in asked]
    return chosen, FirstMovers(**settings.get(FirstMovers.id, {}))


def _asked(metrics: object) -> list[str]:
    """The ids asked for, all of them known."""
    if metrics is None:
        return list(METRICS)
    if isinstance(metrics, str):
        metrics = metrics.split(",")
    listed = list(metrics) if isinstance(metrics, Iterable) else None
    if listed is None or not all(isinstance(name, str) for name in listed):
        raise UsageError(f"metrics are ids such as ['norms', 'elr'], or None; found {metrics!r}")
    asked = [name.strip() for name in listed]
    for name in asked:
        if name not in METRICS:
            raise UsageError(_unknown("metric", name, list(METRICS)))
    return asked


def _setting(metric: type[Metric | FirstMovers], option: str, value: Any) -> Any:
    """An option's value in the option's type and range."""
    known = [field.name for field in fields(metric)]
    if option not in known:
        raise UsageError(_unknown(f"option of {metric.id}", option, known))
    wanted = get_type_hints(metric, include_extras=True)[option]
    try:
        setting = msgspec.convert(value, wanted, strict=False)
    except msgspec.ValidationError as error:
        why = f"{error}"
    else:
        if not isinstance(setting, float) or math.isfinite(setting):
            return setting
        why = "it is not a finite number"
    meta = range_of(wanted)
    allowed = "" if meta is None else f"; it is to be {told(meta)}"
    raise UsageError(f"option {metric.id}.{option}={value!r} is refused: {why}{allowed}.")


def range_of(hint: Any) -> msgspec.Meta | None:
    """The range that an option's type declares.

    Args:
        hint: The type, one of `trajfile.metrics.ranges` or such a one or None.

    Returns:
        The range; None if the type declares none.
    """
    if get_origin(hint) is Annotated:
        return next((m for m in get_args(hint)[1:] if isinstance(m, msgspec.Meta)), None)
    declared = (range_of(part) for part in get_args(hint))
    return next((meta for meta in declared if meta is not None), None)


def _unknown(what: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"there is no {what} called {name!r}; there are {', '.join(known) or 'none'}.{hint}"
