"""spec/metrics.md against the metrics: every option with its default, every section."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

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
