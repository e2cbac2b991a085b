"""JSON, JSON Lines and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import msgspec

from trajfile.audit.formats.result import SCHEMA, Result
from trajfile.audit.outcome import Outcome
from trajfile.report import plain
from trajfile.version import __version__

_COLUMNS = (
    *("path", "status", "container", "rule", "severity", "known"),
    *("tensor", "step", "value", "limit", "message", "remedy"),
)


def as_json(result: Result) -> Iterator[str]:
    """One document of schema ``trajfile.audit/1``."""
    head = {
        "schema": SCHEMA,
        "trajfile_version": __version__,
        "fail_on": result.rules.fail_on,
        "summary": msgspec.to_builtins(result.summary),
        "rules": [
            {"id": rule.id, "severity": rule.severity, "condition": rule.condition}
            for rule in result.rules.applying()
        ],
    }
    yield msgspec.json.encode(head).decode()[:-1] + ',"inputs":['
    for number, outcome in enumerate(result.outcomes()):
        yield ("," if number else "") + "\n" + _line(outcome)
    yield "\n]}\n"


def as_jsonl(result: Result) -> Iterator[str]:
    """An object a line: each input with ``"type": "input"``, at last the summary."""
    for outcome in result.outcomes():
        yield '{"type":"input",' + _line(outcome)[1:] + "\n"
    summary = msgspec.json.encode(result.summary).decode()
    yield '{"type":"summary","schema":"' + SCHEMA + '",' + summary[1:] + "\n"


def as_csv(result: Result) -> Iterator[str]:
    """A row for each violation, and one without a rule for each input that has none."""
    yield _row(_COLUMNS)
    for outcome in result.outcomes():
        shared = (outcome.path, outcome.status, outcome.container)
        for item in outcome.violations:
            found = (item.rule, item.severity, item.known, item.tensor, item.step)
            said = (item.value, item.limit, item.message, item.remedy)
            yield _row((*shared, *found, *said))
        if not outcome.violations:
            yield _row((*shared, *[None] * (len(_COLUMNS) - len(shared))))


def _line(outcome: Outcome) -> str:
    return msgspec.json.encode(plain(msgspec.to_builtins(outcome))).decode()


def _row(values: tuple[object, ...]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow([_cell(value) for value in values])
    return buffer.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@", "\t", "\r"}:
        return "'" + value  # or a spreadsheet takes it for a formula
    return "" if value is None else value
