"""`trajfile audit` as people and CI systems meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import trajfile.audit
from tests.audit.runs import healthy, record
from tests.audit.stand_ins import Here
from trajfile.audit.rulebook import shipped

SAMPLES = Path(__file__).parents[2] / "sample_data"


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """No ledger of one test in another's way, no rule file of the project in force."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    healthy(runs / "good.h5")
    record(runs / "frozen.h5", frozen=("fc2.bias",))
    (runs / "text.h5").write_text("not a run")
    return runs


@pytest.fixture
def here(monkeypatch):
    """Where the processes of an audit are not what the test is about."""
    monkeypatch.setattr(trajfile.audit, "crew_for", Here)


def test_the_worst_come_first_and_the_exit_code_says_so(run, folder, tmp_path):
    outcome = run("audit", "runs")
    assert outcome.code == 1
    assert outcome.err == ""
    lines = outcome.out.splitlines()
    assert lines[0] == "runs/text.h5"
    assert "runs/frozen.h5" in lines
    assert "runs/good.h5" not in outcome.out
    assert "3 inputs · 1 failing · 1 clean · 1 not examined · 1 error, 1 warning" in lines
    assert lines[-1] == "Next: trajfile analyze runs/text.h5"
    left = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert left == []  # the ledger of a finished audit


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ((), 0),
        (("--fail-on", "warn"), 1),
        (("--fail-on", "warn", "--ignore", "dead-*"), 0),
        (("--fail-on", "warn", "--select", "jumps"), 0),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_fails_is_told(run, folder, options, code):
    (folder / "text.h5").unlink()
    assert run("audit", "runs", *options).code == code


@pytest.mark.usefixtures("here")
def test_every_form_to_a_file_and_to_stdout(run, folder, tmp_path):
    for form in ("table", "json", "jsonl", "csv", "markdown", "junit", "sarif", "github"):
        path = tmp_path / f"out.{form}"
        to_file = run("audit", "runs", "--format", form, "--output", path)
        assert (to_file.code, to_file.out) == (1, "")
        assert "runs/text.h5" in path.read_text()
    document = json.loads(run("audit", "runs", "--format", "json").out)
    assert document["summary"]["failing"] == 1


@pytest.mark.usefixtures("here")
def test_a_baseline_written_and_held_against(run, folder):
    assert run("audit", "runs", "--write-baseline", "base.json").code == 1
    accepted = run("audit", "runs", "--baseline", "base.json", "--fail-on", "warn")
    assert accepted.code == 0
    assert "2 known to the baseline" in accepted.out
    record(folder / "new.h5", gradient={"stage": "scaled"})
    fresh = run("audit", "runs", "--baseline", "base.json", "--fail-on", "warn")
    assert fresh.code == 1
    assert "gradient-stage" in fresh.out
    assert "dead-tensor" not in fresh.out


def test_explain(run):
    every = run("audit", "--explain", "all")
    assert every.code == 0
    assert all(rule in every.out for rule in shipped())
    one = run("audit", "--explain", "jumps").out
    assert shipped()["jumps"].remedy[:40] in one.replace("\n", " ")
    unknown = run("audit", "--explain", "jmups")
    assert (unknown.code, unknown.out) == (2, "")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "nothing to audit"),
        (("runs", "--rules", "absent.toml"), "cannot be read"),
        (("runs", "--select", "jmups"), "is no rule"),
        (("runs", "--baseline", "absent.json"), "cannot be read"),
        (("*.nothing",), "matches nothing"),
        (("runs", "--memory", "many"), "many"),
        (("runs", "--device", "tpu"), "tpu"),
        (("runs", "--workers", "0"), "workers"),
    ],
)
def test_wrong_usage_is_one_sentence(run, folder, arguments, why):
    outcome = run("audit", *arguments)
    assert outcome.code == 2
    assert why in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.usefixtures("here")
def test_the_screen_fits(run, monkeypatch, tmp_path):
    monkeypatch.setenv("TRAJFILE_CACHE_DIR", str(tmp_path / "cache"))
    for width in (120, 80):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = run("audit", SAMPLES).out.splitlines()
        assert len(lines) > 5
        assert all(len(line) <= width for line in lines)
