"""Annotations as GitHub's runners read them from the log of a job."""

from __future__ import annotations

from collections.abc import Iterator

from trajfile.audit.formats.result import Result
from trajfile.report import Severity

_COMMANDS: dict[Severity, str] = {"error": "error", "warn": "warning", "info": "notice"}


def github(result: Result) -> Iterator[str]:
    """One workflow command for each violation that no baseline knows, and a last line of counts."""
    for outcome in result.outcomes():
        for item in outcome.violations:
            if not item.known:
                yield (
                    f"::{_COMMANDS[item.severity]} file={_property(outcome.path)},"
                    f"title={_property(item.rule)}::{_data(item.message)} {_data(item.remedy)}\n"
                )
    total = result.summary
    yield f"trajfile audit: {total.inputs} inputs, {total.failing} failing\n"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
