"""Whole screens, line by line, as a person sees them.

After a change that is meant: ``TRAJFILE_UPDATE_GOLDEN=1 pytest tests/cli/test_golden.py``, and read
the difference before committing it.
"""

import os
import re
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden"

#: What differs from run to run or machine to machine, and what it reads in a golden screen.
VARYING = [
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d to .* UTC"), "TIME to TIME UTC"),
    (re.compile(r"[\d.]+ [KM]iB \(\d+ bytes\)"), "SIZE"),
    (re.compile(r"passe?s?, [\d.e-]+ s on [\w:]+"), "pass, TIME on DEVICE"),
    (re.compile(r"^(device +).*$", re.MULTILINE), r"\1DEVICE"),
    (re.compile(r"^(memory|  tiles|  scratch|  sums)( +).*$", re.MULTILINE), r"\1\2SIZE"),
    (re.compile(r"trajfile \d+\.\d+\.\d+"), "trajfile VERSION"),
]

SCREENS = {
    "info": ["info", "tiny.h5"],
    "validate": ["validate", "tiny.h5"],
    "validate_deep": ["validate", "tiny.h5", "--deep"],
    "validate_other_file": ["validate", "notes.h5"],
    "metrics": ["metrics"],
    "metrics_periodicity": ["metrics", "periodicity"],
    "analyze": ["analyze", "tiny.h5"],
    "analyze_selection": ["analyze", "tiny.h5", "--params", "*.weight", "--steps", "10:50:2"],
    "analyze_one_metric": ["analyze", "tiny.h5", "--metrics", "norms"],
    "plan": ["analyze", "tiny.h5", "--plan"],
}


@pytest.mark.parametrize("name", SCREENS)
def test_screen(name, run, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.h5").symlink_to(tiny)
    Path("notes.h5").write_text("some notes\n")
    outcome = run(*SCREENS[name])
    assert outcome.err == ""
    seen = outcome.out
    for varying, shown in VARYING:
        seen = varying.sub(shown, seen)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("TRAJFILE_UPDATE_GOLDEN"):
        path.write_text(seen)
    assert seen == path.read_text()


def test_every_golden_screen_is_tested():
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(SCREENS)
