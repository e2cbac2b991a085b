"""What every study here does: train, record through the writer, analyze, put figures in a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trajfile
from trajfile.report import MetricResult, Report


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's digits: images float32 (1797, 64) in [0, 1], labels int64 (1797,)."""
    from sklearn.datasets import load_digits  # only what runs needs it: 2 s

    found = load_digits()
    return torch.tensor(found.data / 16, dtype=torch.float32), torch.tensor(found.target)


def analyzed(
    path: Path,
    rows: Iterable[Mapping[str, Any]],
    about: Mapping[str, Any],
    metrics: Sequence[str],
    options: Mapping[str, Any] | None = None,
) -> Report:
    """Record a training as it runs, and analyze the file; the file is then removed.

    Args:
        path: Where the HDF5 file lies meanwhile.
        rows: A generator that trains and yields the arguments of `Writer.append` of each step,
            `step` among them. Each row is written before the next one is asked for, so live
            parameters may be yielded as they are.
        about: What else the writer is told: `optimizer`, `gradient`, `groups`, `metadata`.
        metrics: The metrics to compute.
        options: Metric options, as in `trajfile.analyze`.
    """
    with trajfile.Writer(path, mode="w", **about) as run:
        for row in rows:
            run.append(**row)
    report = trajfile.analyze(path, metrics=list(metrics), device="cpu", options=options)
    path.unlink()
    return report


def of(result: MetricResult, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps int64 and values float64 of one series; what is undefined is NaN."""
    found = result.series[name]
    return np.asarray(found.step, np.int64), np.asarray(found.value, np.float64)


class Table:
    """Figures of a study, one row a setting, printed as Markdown.

    `publish` prints it and, if the environment names a folder in TRAJFILE_STUDY_DIR, writes it
    there as `<name>.md`: the tables of spec/metrics.md are these files.
    """

    def __init__(self, name: str, *columns: str):
        self.name = name
        self.columns = columns
        self.rows: list[list[str]] = []

    def add(self, *cells: Any) -> None:
        """Add a row: numbers to three significant digits, a sequence as the range it spans."""
        assert len(cells) == len(self.columns), (cells, self.columns)
        self.rows.append([_written(cell) for cell in cells])

    def publish(self) -> str:
        """The table as Markdown, printed and kept."""
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
        print(f"\n{self.name}\n{text}")
        folder = os.environ.get("TRAJFILE_STUDY_DIR")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, f"{self.name}.md").write_text(text, encoding="utf-8")
        return text


def _written(cell: Any) -> str:
    """One cell: the mean and the range over seeds, a number, or words."""
    if isinstance(cell, list | tuple | np.ndarray):
        known = [float(x) for x in cell if x is not None and np.isfinite(x)]
        if not known:
            return "–"
        missing = f", {len(cell) - len(known)} without" if len(known) < len(cell) else ""
        dash = " to " if min(known) < 0 else "–"
        return f"{_short(np.mean(known))} ({_short(min(known))}{dash}{_short(max(known))}{missing})"
    if cell is None:
        return "–"
    return str(cell) if isinstance(cell, str | bool) else _short(cell)


def _short(number: float) -> str:
    if isinstance(number, int | np.integer):
        return str(number)
    if np.isfinite(number) and 1000 <= abs(number) < 1e7:
        return f"{number:.0f}"
    return f"{number:.3g}"
