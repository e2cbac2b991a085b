"""spec/metrics.md against the metrics: every option with its default, every section."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from trajfile_cli.app import main

from trajfile.metrics import METRICS

TEXT = (Path(__file__).parents[2] / "spec/metrics.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


@pytest.mark.parametrize("id", METRICS)
def test_options_and_defaults_are_those_of_the_metric(id: str) -> None:
    documented = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", SECTIONS[id], re.M))
    actual = {field.name: str(field.default) for field in fields(METRICS[id])}
    assert documented == actual


@pytest.mark.parametrize("id", METRICS)
def test_sections_name_needs_limits_and_reference(id: str) -> None:
    for heading in ("**Needs**", "**Cannot tell**", "**Reference**"):
        assert heading in SECTIONS[id]
    for paper in re.findall(r"\d{4}\.\d{5}", METRICS[id].reference):
        assert paper in SECTIONS[id]


def test_no_section_without_a_metric() -> None:
    assert set(SECTIONS) - {"Notation"} == set(METRICS)


@pytest.mark.parametrize("id", METRICS)
def test_examples_run(id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^```python\n(.*?)^```", SECTIONS[id], re.M | re.S)
    assert examples
    for code in examples:
        assert "assert" in code
        exec(compile(code, f"spec/metrics.md, {id}", "exec"), {})


@pytest.mark.parametrize("id", METRICS)
def test_the_command_shows_the_page(id: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["metrics", id])
    shown = " ".join(capsys.readouterr().out.split())
    first = SECTIONS[id].strip().split("\n\n")[0]
    for sentence in re.split(r"(?<=\.) ", " ".join(re.sub(r"\*\*|`", "", first).split())):
        assert sentence.replace("*derived*", "derived") in shown
