"""`trajfile repair` and `analyze --skip-damaged` as a person meets them."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.conformance.damage import chunk_offset, flip


@pytest.fixture
def broken(tiny, tmp_path):
    path = tmp_path / "broken.h5"
    shutil.copy(tiny, path)
    flip(path, chunk_offset(path, "streams/params/float32", 2) + 1)
    return path


def test_analyze_refuses_names_the_place_and_the_ways_on(run, broken):
    outcome = run("analyze", broken, "--device", "cpu")
    assert outcome.code == 3
    assert outcome.out == ""
    assert "params is damaged at step" in outcome.err
    assert "(row 2, columns 0–" in outcome.err
    assert "--skip-damaged" in outcome.err
    assert "trajfile repair" in outcome.err


def test_skipping_says_so_on_every_screen(run, broken):
    for more in ([], ["--plan"]):
        outcome = run("analyze", broken, "--device", "cpu", "--skip-damaged", *more)
        assert outcome.code == 0
        assert "recorded steps of params is damaged and left out" in " ".join(outcome.out.split())
    report = json.loads(
        run("analyze", broken, "--device", "cpu", "--skip-damaged", "--json", "-").out
    )
    (found,) = [f for f in report["findings"] if f["id"] == "damage.params"]
    assert (found["severity"], found["evidence"]["steps"]) == ("warn", 1)


@pytest.mark.parametrize("width", [80, 120])
def test_what_survived(run, broken, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    outcome = run("repair", broken)
    assert outcome.code == 1
    assert outcome.err == ""
    clean = broken.with_name("broken.repaired.h5")
    lines = outcome.out.splitlines()
    assert lines[1].split() == ["committed", "saved", "lost"]
    assert any(line.split()[0] == "params" and line.split()[-1] == "1" for line in lines if line)
    assert any(line.startswith("lost  params: row 2, step ") for line in lines)
    assert max(len(line) for line in lines if str(broken.parent) not in line) <= width
    assert str(clean) in outcome.out
    assert run("validate", clean, "--deep").code == 0
    assert run("repair", broken).code == 2


def test_codes_and_json(run, tiny, broken, tmp_path):
    assert run("repair", tiny, "-o", tmp_path / "copy.zarr").code == 0
    assert run("repair", tmp_path / "none.h5").code == 3
    outcome = run("repair", broken, "--in-place", "--json", "-")
    assert outcome.code == 1
    told = json.loads(outcome.out)
    assert told["lossy"] is True
    assert told["backup"].endswith("broken.damaged.h5")
    (tmp_path / "cut.h5").write_bytes(broken.read_bytes()[:500])
    outcome = run("repair", tmp_path / "cut.h5")
    assert outcome.code == 3
    assert "nothing can be saved" in outcome.err
