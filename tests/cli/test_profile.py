"""`analyze --profile` shows where the time went, on any width."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

SAMPLE = Path(__file__).parents[2] / "sample_data" / "periodic_toy.h5"


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_follows_the_report(run, monkeypatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    plain = run("analyze", SAMPLE, "--device", "cpu").out.splitlines()
    lines = run("analyze", SAMPLE, "--device", "cpu", "--profile").out.splitlines()
    table = lines[len(plain) :]
    assert table[0] == ""
    assert table[1].split()[0] == "seconds"
    assert table[1].split()[-2:] == ["all", "share"]
    kinds = [line.split()[0] for line in table[2:]]
    assert {"read", "metrics", "other"} <= set(kinds)
    assert max(map(len, table)) <= width
    shares = [int(w.rstrip("%")) for line in table for w in line.split() if w.endswith("%")]
    assert 95 <= sum(shares) <= 105
    # What the kinds mean is said of all of them, or of none where it does not fit.
    ends = {line.rstrip().endswith("%") for line in table[2:] if not line.startswith("wait")}
    assert len(ends) == 1


def test_it_is_in_the_document(run) -> None:
    told = json.loads(run("analyze", SAMPLE, "--profile", "--json", "-").out)
    assert told["run"]["profile"]["MainThread"]["metrics"] > 0


def test_it_is_not_to_be_had_of_a_process_apart(run) -> None:
    outcome = run("analyze", SAMPLE, "--profile", "--untrusted")
    assert outcome.code == 2
    assert "--untrusted keeps apart" in outcome.err
