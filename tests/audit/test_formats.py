"""What other programs read: each form against a reader of that form that is not ours."""

from __future__ import annotations

import csv
import io
import json

import junitparser
import pytest
from sarif_pydantic import Sarif

from trajfile.audit import FORMATS, Ledger, Outcome, Result, Rulebook, Violation
from trajfile.audit.rulebook import shipped

HOSTILE = "evil\x1b[31m,name\n::error::&<b>|`x`\x00.h5"


@pytest.fixture
def result(tmp_path):
    def violation(rule, severity, **more):
        return Violation(rule, severity, f"message of {rule} 100%", "do this", **more)

    outcomes = [
        Outcome("clean.h5", "ok", seconds=0.5),
        Outcome(
            "runs/a b.h5",
            "ok",
            container="hdf5",
            violations=[
                violation("jumps", "warn", value=3, limit=0, step=7),
                violation("dead-tensor", "warn", value=False, tensor="fc1.weight"),
            ],
        ),
        Outcome(HOSTILE, "damaged", violations=[violation("damaged", "error", value=HOSTILE)]),
        Outcome("old.h5", "ok", violations=[violation("jumps", "warn", known=True)]),
        Outcome("=cmd()", "ok", violations=[violation("loss-grew", "error", value=float("nan"))]),
    ]
    with Ledger(tmp_path / "ledger", "", resume=False) as ledger:
        for outcome in outcomes:
            ledger.add(outcome)
        book = Rulebook(shipped(), list(shipped()), "error")
        yield Result(ledger.summary("error"), book, ledger.worst_first)


def text_of(form, result):
    return "".join(FORMATS[form](result))


def test_json(result):
    document = json.loads(text_of("json", result))
    assert document["schema"] == "trajfile.audit/1"
    assert document["summary"]["inputs"] == 5
    assert document["summary"]["failing"] == 2
    assert [i["path"] for i in document["inputs"]][-2:] == ["clean.h5", "old.h5"]
    assert {rule["id"] for rule in document["rules"]} == set(shipped())
    assert "NaN" not in text_of("json", result)


def test_jsonl(result):
    lines = [json.loads(line) for line in text_of("jsonl", result).splitlines()]
    assert [line["type"] for line in lines] == ["input"] * 5 + ["summary"]
    assert lines[-1]["schema"] == "trajfile.audit/1"


def test_csv(result):
    rows = list(csv.DictReader(io.StringIO(text_of("csv", result))))
    assert len(rows) == 6
    assert {row["rule"] for row in rows if row["path"] == "runs/a b.h5"} == {"jumps", "dead-tensor"}
    assert [row["path"] for row in rows if row["rule"] == "loss-grew"] == ["'=cmd()"]
    assert [row["rule"] for row in rows if row["path"] == "clean.h5"] == [""]


def test_markdown(result):
    text = text_of("markdown", result)
    assert "| 5 | 2 | 2 | 1 | 2 | 2 | 1 |" in text
    assert "\x1b" not in text
    assert "<b>" not in text
    assert "**warn** `jumps`" in text
    assert "old.h5" not in text


def test_junit_as_a_reader_of_it_sees_it(result):
    text = text_of("junit", result)
    read = junitparser.JUnitXml.fromstring(text.encode())
    (suite,) = read
    assert (suite.tests, suite.failures, suite.errors) == (5, 1, 1)
    cases = {case.name: case for case in suite}
    assert isinstance(cases["=cmd()"].result[0], junitparser.Failure)
    assert "do this" in cases["=cmd()"].result[0].text
    assert cases["clean.h5"].result == []
    assert sum(isinstance(r, junitparser.Error) for c in suite for r in c.result) == 1
    assert "\x1b" not in text


def test_sarif_is_of_the_standard(result):
    document = json.loads(text_of("sarif", result))
    log = Sarif.model_validate(document)
    (run,) = log.runs
    assert len(run.results) == 5
    assert {r.rule_id for r in run.results} == {"jumps", "dead-tensor", "damaged", "loss-grew"}
    for entry in document["runs"][0]["results"]:
        rule = document["runs"][0]["tool"]["driver"]["rules"][entry["ruleIndex"]]
        assert rule["id"] == entry["ruleId"]
    uris = [
        r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for r in document["runs"][0]["results"]
    ]
    assert "runs/a%20b.h5" in uris
    states = [r["baselineState"] for r in document["runs"][0]["results"]]
    assert states.count("unchanged") == 1


def test_annotations_are_one_line_each(result):
    lines = text_of("github", result).splitlines()
    assert len(lines) == 5
    assert sum(line.startswith("::warning file=runs/a b.h5") for line in lines) == 2
    assert sum(line.startswith("::error ") for line in lines) == 2
    assert any("100%25" in line for line in lines)
    assert lines[-1] == "trajfile audit: 5 inputs, 2 failing"
