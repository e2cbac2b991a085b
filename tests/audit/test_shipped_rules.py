"""Every shipped rule: a run that breaks it, and a healthy one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.audit.runs import BREAKING, healthy, record
from trajfile.audit import Settings, load_rulebook
from trajfile.audit.examine import examine
from trajfile.audit.failure import failed
from trajfile.audit.outcome import Accepted
from trajfile.audit.rulebook import FAILURES, shipped

ROOT = Path(__file__).parents[2]
BOOK = load_rulebook(ROOT / "trajfile" / "audit" / "shipped.toml")
SETTINGS = Settings(BOOK)

#: Rules that need more than a file to break: tested below.
OTHERS = {
    "sharper-than-baseline",
    "metric-failed",
    "unsafe",
    "out-of-resources",
    "too-slow",
    "worker-died",
    "internal",
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return examine(str(healthy(tmp_path_factory.mktemp("sound") / "run.h5")), SETTINGS)


def test_every_rule_is_put_to_the_test():
    assert set(shipped()) == set(BREAKING) | OTHERS


def test_a_healthy_run_breaks_none(sound):
    assert (sound.status, sound.violations) == ("ok", [])
    assert sound.verdict
    assert sound.bytes_read > 0


@pytest.mark.parametrize("rule", BREAKING)
def test_a_run_that_breaks_it(rule, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    outcome = examine(str(BREAKING[rule](tmp_path / "run.h5")), SETTINGS)
    found = {violation.rule: violation for violation in outcome.violations}
    assert rule in found
    assert found[rule].severity == BOOK.rules[rule].severity
    assert found[rule].message
    assert "{" not in found[rule].message
    assert found[rule].remedy == BOOK.rules[rule].remedy


@pytest.mark.parametrize("status", FAILURES)
def test_every_failure_has_its_rule(status):
    outcome = failed("x.h5", status, "because", SETTINGS)
    assert len(outcome.violations) == 1
    assert "because" in outcome.violations[0].message


def test_sharper_than_what_was_accepted(tmp_path):
    path = str(ROOT / "sample_data" / "edge_of_stability.h5")
    plain = examine(path, SETTINGS)
    value = plain.values["sharper-than-baseline"]
    assert "sharper-than-baseline" not in {v.rule for v in plain.violations}
    for accepted, trips in ((value, False), (value / 1.3, True)):
        baseline = {path: Accepted([], {"sharper-than-baseline": accepted})}
        outcome = examine(path, Settings(BOOK, baseline=baseline))
        assert ("sharper-than-baseline" in {v.rule for v in outcome.violations}) is trips


def test_a_folder_of_links_is_unsafe(tmp_path):
    path = tmp_path / "run.zarr"
    record(path)
    commits = path / "commits" / "c.0.0"
    outside = tmp_path / "outside"
    commits.rename(outside)
    commits.symlink_to(outside)
    outcome = examine(str(path), SETTINGS)
    assert [v.rule for v in outcome.violations] == ["unsafe"]


def test_a_metric_that_fails_is_a_finding(tmp_path, monkeypatch):
    from trajfile.metrics.norms import Norms

    def broken(self, measured):
        raise ZeroDivisionError("no")

    monkeypatch.setattr(Norms, "compute", broken)
    outcome = examine(str(healthy(tmp_path / "run.h5")), SETTINGS)
    assert "metric-failed" in {v.rule for v in outcome.violations}
