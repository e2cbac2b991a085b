"""A report is data that survives JSON, with null for what is not a number."""

from __future__ import annotations

import json
import math

import jsonschema
import numpy as np
import pytest

import trajfile
from tests.unit.schemas import report_schema
from trajfile.report import (
    Finding,
    MetricResult,
    Report,
    Run,
    Source,
    StreamSource,
    TensorResult,
    number,
    plain,
    series,
)


@pytest.fixture
def report() -> Report:
    finding = Finding("norms.non_finite", "error", "The loss is lost.", {"step": 3, "at": math.inf})
    result = MetricResult(
        status="ok",
        summary={"a": 1.5, "b": None, "regime": "convergence", "steps": [1, 2], "flag": True},
        series={"rho": series(np.array([0, 2**53 + 1]), np.array([math.nan, 0.1]))},
        per_tensor={"w": TensorResult({"norm": 2.0})},
        findings=[finding],
        definition="x",
        reference="y",
        options={"delta": 0.1},
    )
    return Report(
        source=Source(
            path="run.h5",
            container="hdf5",
            format_version=(1, 0),
            uuid="u",
            parameters=2**60 + 1,
            streams={"params": StreamSource(2, 0, 7), "updates": StreamSource(0, None, None)},
            metadata={"best": -math.inf},
        ),
        run=Run("cpu", 0.25, 2**40 + 1, 1, 2**31, 12345),
        metrics={"elr": result, "norms": MetricResult(status="skipped", reason="no params")},
        findings=[finding],
        verdict="It converged.",
        trajfile_version="0.1.0",
    )


def test_the_json_form_fits_the_schema_and_the_contract(report):
    built = json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(name))
    jsonschema.Draft202012Validator(report_schema()).validate(built)
    assert built["schema"] == "trajfile.report/1"
    assert set(built) >= {"schema", "trajfile_version", "source", "run", "metrics", "findings"}
    metric = built["metrics"]["elr"]
    assert set(metric) >= {
        *("status", "reason", "summary", "series", "per_tensor", "findings"),
        *("definition", "reference"),
    }
    assert metric["series"]["rho"] == {"step": [0, 2**53 + 1], "value": [None, 0.1]}
    assert metric["per_tensor"] == {"w": {"summary": {"norm": 2.0}}}
    assert built["source"]["parameters"] == 2**60 + 1
    assert built["source"]["format_version"] == [1, 0]
    assert built["source"]["metadata"] == {"best": None}
    assert built["findings"] == [
        {
            "id": "norms.non_finite",
            "severity": "error",
            "message": "The loss is lost.",
            "evidence": {"step": 3, "at": None},
        }
    ]


def test_a_report_comes_back_from_its_dictionary(report):
    again = Report.from_dict(json.loads(report.to_json()))
    assert again.to_dict() == report.to_dict()
    assert again.metrics["elr"].series["rho"] == report.metrics["elr"].series["rho"]
    assert trajfile.Report is Report


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "trajfile.report/2"},
        {"schema": None},
        {"source": None},
        {"metrics": {"elr": {"status": "fine"}}},
        {"findings": [{"id": "x"}]},
    ],
)
def test_what_is_no_report_is_refused(report, change):
    data = {**report.to_dict(), **change}
    with pytest.raises(ValueError, match=r"schema|Expected|Invalid|missing"):
        Report.from_dict(data)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(report_schema()).validate(data)


def test_floats_are_float64_exactly(report):
    values = np.random.default_rng(0).standard_normal(100) * 10.0 ** np.arange(-50, 50)
    written = json.loads(json.dumps(series(np.arange(100), values).value))
    assert written == values.tolist()


def test_plain_values():
    given = {"a": np.float32(0.5), 1: (np.int64(3), math.nan, "x", None, True, -math.inf)}
    assert plain(given) == {"a": 0.5, "1": [3, None, "x", None, True, None]}
    assert type(plain(np.int64(3))) is int
    assert number(None) is number(math.nan) is number(np.float64(math.inf)) is None
    assert number(np.float32(0.5)) == 0.5
