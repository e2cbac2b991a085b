"""The page of recipes: its commands run, and the gate closes when a run got sharper."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from trajfile_cli.app import main

import trajfile.audit
from tests.audit.runs import healthy
from tests.audit.stand_ins import Here
from trajfile.audit import load_rulebook

PAGE = (Path(__file__).parents[2] / "spec" / "recipes.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    if not block.startswith("# not run")
    for line in block.splitlines()
]


def curved(path, curvature):
    """Gradient descent on a parabola, so that its curvature is what is found."""
    path.unlink(missing_ok=True)
    with trajfile.Writer(path, optimizer={"name": "SGD"}, gradient={"stage": "raw"}) as writer:
        theta = np.linspace(1, 2, 12).astype("f4")
        scale = curvature * np.linspace(0.2, 1, 12).astype("f4")
        for step in range(40):
            slope = scale * theta
            scalars = {"loss": float((slope * theta).sum() / 2), "learning_rate": 0.02}
            writer.append(step, params={"w": theta}, gradients={"w": slope}, scalars=scalars)
            theta = theta - np.float32(0.02) * slope


def run(command):
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command)[1:])
    return ended.value.code


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "nightly").mkdir()
    (tmp_path / "models").mkdir()
    return tmp_path


def test_the_gate_closes_when_a_run_got_sharper(place, capsys, monkeypatch):
    monkeypatch.setattr(trajfile.audit, "crew_for", Here)
    accept, gate = COMMANDS[:2]
    curved(place / "nightly" / "run.h5", 1.0)
    assert run(accept) == 0
    assert run(gate) == 0
    capsys.readouterr()
    curved(place / "nightly" / "run.h5", 2.0)
    assert run(gate) == 1
    told = capsys.readouterr().out
    assert told.startswith("::error")
    assert "sharper-than-baseline" in told


def test_folders_of_checkpoints(place, monkeypatch):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    rules = re.search(r"```toml\n(.*?)```", PAGE, re.S)[1]
    (place / "trajfile.toml").write_text(rules)
    assert load_rulebook(place / "trajfile.toml").rules["exploding-update"].above == 100
    generator = np.random.default_rng(3)
    for step in (500, 1000, 1500):
        folder = place / "models" / "small" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        weights = {"a.weight": generator.normal(size=(6, 6)).astype("f4")}
        save_file(weights, folder / "model.safetensors")
    select, limited = COMMANDS[2:4]
    with monkeypatch.context() as here:  # the other one has processes do it
        here.setattr(trajfile.audit, "crew_for", Here)
        assert run(select) == 0
    assert "| 1 | 0 | 1 | 0 |" in (place / "audit.md").read_text()
    assert run(limited) == 0


@pytest.mark.slow
def test_workers_of_this_machine(place):
    pytest.importorskip("distributed")
    healthy(place / "nightly" / "run.h5")
    assert run(COMMANDS[4]) == 0


def test_every_command_is_run_by_a_test():
    assert len(COMMANDS) == 5
