"""Each rule of the format is broken by one file, which breaks no other rule."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import trajfile
from tests.conformance.breakers import BREAKERS, SUFFIX, sound_run
from trajfile.rules import RULES, table

SPEC = Path(__file__).parents[2] / "spec" / "format.md"


@pytest.mark.parametrize("kind", SUFFIX)
def test_the_run_that_is_spoilt_is_sound(tmp_path: Path, kind: str) -> None:
    assert trajfile.validate(sound_run(tmp_path / f"run{SUFFIX[kind]}"), deep=True) == []


@pytest.mark.parametrize(("rule", "kind"), BREAKERS)
def test_a_file_that_breaks_only_this_rule(tmp_path: Path, rule: str, kind: str) -> None:
    path = sound_run(tmp_path / f"run{SUFFIX[kind]}")
    BREAKERS[rule, kind](path)
    findings = trajfile.validate(path, deep=True)
    assert {(finding.id, finding.severity) for finding in findings} == {
        (rule, RULES[rule].severity)
    }, findings
    assert all("\n" not in finding.message for finding in findings)


def test_every_rule_has_such_a_file() -> None:
    nothing_there = {"CORE-001", "CORE-016"}  # no file; a reader that died
    assert {rule for rule, _ in BREAKERS} | nothing_there == set(RULES)
    both = {rule for rule in RULES if rule.split("-")[0] not in {"H5", "ZR"}}
    one_sided = {"CORE-006"}  # a folder states no length
    for rule in both - nothing_there - one_sided:
        assert {kind for broken, kind in BREAKERS if broken == rule} == set(SUFFIX), rule


def test_nothing_at_the_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(trajfile.NotATrajectory) as caught:
        trajfile.validate(tmp_path / "none.h5")
    assert caught.value.rule == "CORE-001"


def test_the_table_in_the_specification_is_that_of_the_code() -> None:
    assert table() in SPEC.read_text(), "put the output of `python -m trajfile.rules` into §9"
    printed = subprocess.run(
        [sys.executable, "-m", "trajfile.rules"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == table()


def test_every_rule_is_named_in_the_text_that_states_it() -> None:
    text = SPEC.read_text().partition("## 9. Rules")[0]
    named = set(re.findall(r"\b(?:CORE|STR|DT|COM|SUM|H5|ZR)-\d{3}\b", text))
    normative = {rule for rule in RULES if not rule.startswith("USE-")}
    assert named == normative
