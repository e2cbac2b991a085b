"""A report as pandas tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from trajfile.errors import UsageError

if TYPE_CHECKING:
    import pandas

Table = Literal["series", "summary", "tensors", "findings"]


def table_of(report: Mapping[str, Any], table: Table) -> pandas.DataFrame:
    """One table of a report; see `trajfile.report.Report.to_dataframe`.

    Args:
        report: As `trajfile.report.Report.to_dict` gives it.
        table: Which.

    Returns:
        The table; without rows if the report has nothing for it.

    Raises:
        UsageError: If pandas is not installed or there is no such table.
    """
    if table not in get_args(Table):
        tables = ", ".join(repr(name) for name in get_args(Table))
        raise UsageError(f"a report has no table {table!r}; there are {tables}")
    try:
        import pandas as pd
    except ImportError as error:
        raise UsageError("to_dataframe needs pandas: install trajfile[pandas]") from error
    metrics: dict[str, dict[str, Any]] = report["metrics"]
    if table == "series":
        return _series(pd, metrics)
    if table == "findings":
        columns = ["id", "severity", "message", "evidence"]
        return pd.DataFrame(report["findings"], columns=columns).set_index("id")
    if table == "tensors":
        rows: dict[str, dict[str, Any]] = {}
        for metric, result in metrics.items():
            for tensor, part in result["per_tensor"].items():
                named = {f"{metric}.{name}": value for name, value in part["summary"].items()}
                rows.setdefault(tensor, {}).update(named)
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("tensor")
    summary = {
        (metric, name): value
        for metric, result in metrics.items()
        for name, value in result["summary"].items()
    }
    index = pd.MultiIndex.from_tuples(list(summary), names=["metric", "name"])
    # As objects: counts stay whole numbers and words stay words beside the floats.
    return pd.DataFrame({"value": pd.Series(list(summary.values()), index, dtype=object)})


def _series(pd: Any, metrics: Mapping[str, Mapping[str, Any]]) -> pandas.DataFrame:
    """Every series as a column over all steps of any."""
    every = {
        f"{metric}.{name}": (np.array(one["step"], np.int64), np.array(one["value"], np.float64))
        for metric, result in metrics.items()
        for name, one in result["series"].items()
    }
    steps = np.unique(np.concatenate([np.empty(0, np.int64), *(at for at, _ in every.values())]))
    columns = {}
    for name, (at, values) in every.items():
        columns[name] = np.full(len(steps), np.nan)
        columns[name][np.searchsorted(steps, at)] = values
    return pd.DataFrame(columns, index=pd.Index(steps, name="step"))
