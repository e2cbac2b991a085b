"""A report's numbers as pandas tables."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import trajfile
from trajfile.report import Report

SAMPLES = Path(__file__).parents[2] / "sample_data"


@pytest.fixture(scope="module")
def report() -> Report:
    return trajfile.analyze(SAMPLES / "quickstart.zarr", device="cpu")


def test_series_are_columns_over_steps(report: Report) -> None:
    frame = report.to_dataframe()
    assert frame.index.name == "step"
    assert frame.index.is_unique
    columns = [f"{m}.{s}" for m, result in report.metrics.items() for s in result.series]
    assert list(frame.columns) == columns
    assert (frame.dtypes == np.float64).all()
    for metric, result in report.metrics.items():
        for name, series in result.series.items():
            column = frame[f"{metric}.{name}"]
            known = np.array(series.value, np.float64)  # None becomes NaN
            np.testing.assert_array_equal(column.loc[series.step], known)
            assert column.drop(series.step).isna().all()
            assert len(set(series.step)) == len(series.step)


def test_summary_tensors_and_findings(report: Report) -> None:
    summary = report.to_dataframe("summary")
    for metric, result in report.metrics.items():
        for name, value in result.summary.items():
            found = summary.loc[(metric, name), "value"]
            assert found == value or (found is None and value is None)
            assert type(found) is type(value)
    tensors = report.to_dataframe("tensors")
    norms = report.metrics["norms"].per_tensor
    assert set(norms) <= set(tensors.index)
    for tensor, part in norms.items():
        for name, value in part.summary.items():
            found = tensors.loc[tensor, f"norms.{name}"]
            assert found == value or (value is None and pd.isna(found))
    findings = report.to_dataframe("findings")
    assert list(findings.index) == [finding.id for finding in report.findings]
    assert list(findings.message) == [finding.message for finding in report.findings]


def test_a_report_of_nothing_has_empty_tables(tmp_path: Path) -> None:
    with trajfile.Writer(tmp_path / "run.h5") as writer:
        writer.append(0, scalars={"loss": 1.0})
    report = trajfile.analyze(tmp_path / "run.h5", device="cpu")
    for table in ("series", "tensors", "findings"):
        assert isinstance(report.to_dataframe(table), pd.DataFrame)


def test_refusals(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(trajfile.UsageError, match="no table 'rows'; there are 'series'"):
        report.to_dataframe("rows")  # type: ignore[arg-type] # what is tested
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(trajfile.UsageError, match=r"trajfile\[pandas\]"):
        report.to_dataframe()
