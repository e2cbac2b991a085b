"""`analyze` and `audit` answer from what was measured before, and say so."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from trajfile.audit import Settings, load_rulebook
from trajfile.audit.examine import examine

SAMPLE = Path(__file__).parents[2] / "sample_data" / "periodic_toy.h5"


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run.h5"
    shutil.copy(SAMPLE, path)
    monkeypatch.setenv("TRAJFILE_CACHE_DIR", str(tmp_path / "cache"))
    time.sleep(0.06)  # a file written a moment ago is not trusted
    return path


def test_a_second_analysis_says_where_it_is_from(sample: Path, run) -> None:
    first = run("analyze", sample).out.splitlines()
    again = run("analyze", sample).out.splitlines()
    anew = run("analyze", sample, "--no-cache").out.splitlines()
    (line,) = [line for line in again if "from the cache" in line]
    assert line.startswith("nothing read, ")
    differing = [(a, b) for a, b in zip(first, again, strict=True) if a != b]
    assert [b for _, b in differing] == [line]
    assert not [line for line in anew if "from the cache" in line]
    assert json.loads(run("analyze", sample, "--json", "-").out)["run"]["cached"] == "all"


def test_no_cache_keeps_nothing(sample: Path, run, tmp_path: Path) -> None:
    run("analyze", sample, "--no-cache")
    run("audit", sample, "--no-cache")
    assert not (tmp_path / "cache").exists()


def test_an_audit_reads_nothing_twice(sample: Path) -> None:
    # In this process: the server that audits fork their workers from keeps its own environment.
    settings = Settings(load_rulebook(None), cache=True)
    first, second = (examine(str(sample), settings) for _ in range(2))
    assert first.bytes_read > second.bytes_read == 0
    assert first.violations == second.violations
