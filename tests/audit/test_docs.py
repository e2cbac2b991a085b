"""The page about audits says what the code does, and its commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from trajfile_cli.app import main

import trajfile.audit
from tests.audit.runs import healthy
from tests.audit.stand_ins import Here
from trajfile.audit import load_rulebook
from trajfile.audit.facts import FACTS
from trajfile.audit.rulebook import shipped

PAGE = (Path(__file__).parents[2] / "spec" / "audit.md").read_text()


def test_the_tables_are_the_codes():
    _, before, after = re.split(r"^\|---.*$", PAGE, flags=re.M)
    rules = dict(re.findall(r"^\| `([a-z-]+)` \| (\w+ \| .*) \|$", before, re.M))
    assert rules == {r.id: f"{r.severity} | {r.condition}" for r in shipped().values()}
    assert dict(re.findall(r"^\| `([a-z_]+)` \| (.*) \|$", after, re.M)) == FACTS


def test_the_rule_file_is_one(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(re.search(r"```toml\n(.*?)```", PAGE, re.S)[1])
    book = load_rulebook(path)
    assert book.fail_on == "warn"
    assert book.rules["far-from-start"].above == 100


def test_the_commands_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "runs").mkdir()
    healthy(tmp_path / "runs" / "a.h5")
    commands = [
        line
        for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
        for line in block.splitlines()
        if line
    ]
    assert len(commands) == 4
    for command in commands:
        if command == commands[1]:  # one has processes do it; to start them anew takes seconds
            monkeypatch.setattr(trajfile.audit, "crew_for", Here)
        with pytest.raises(SystemExit) as ended:
            main(shlex.split(command)[1:])
        assert not ended.value.code, command
    assert (tmp_path / "audit.sarif").is_file()
