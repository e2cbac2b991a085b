"""SARIF 2.1.0, which code hosts show beside the files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from trajfile.audit.formats.result import Result, printable
from trajfile.audit.rules import Violation
from trajfile.report import Severity
from trajfile.version import __version__

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_LEVELS: dict[Severity, str] = {"error": "error", "warn": "warning", "info": "note"}


def sarif(result: Result) -> Iterator[str]:
    """One run, a result for each violation; those a baseline knows are ``unchanged``."""
    rules = list(result.rules.rules.values())
    places = {rule.id: number for number, rule in enumerate(rules)}
    driver = {
        "name": "trajfile audit",
        "semanticVersion": __version__,
        "rules": [
            {
                "id": rule.id,
                "shortDescription": {"text": rule.condition},
                "fullDescription": {"text": rule.why},
                "help": {"text": rule.remedy},
                "defaultConfiguration": {"level": _LEVELS[rule.severity]},
            }
            for rule in rules
        ],
    }
    yield '{"$schema": ' + json.dumps(_SCHEMA) + ', "version": "2.1.0", "runs": [{"tool": '
    yield json.dumps({"driver": driver}) + ', "results": ['
    first = True
    for outcome in result.outcomes():
        for item in outcome.violations:
            yield ("" if first else ",") + "\n" + json.dumps(_result(outcome.path, item, places))
            first = False
    yield "\n]}]}\n"


def _result(path: str, item: Violation, places: dict[str, int]) -> dict[str, object]:
    location: dict[str, object] = {"physicalLocation": {"artifactLocation": {"uri": _uri(path)}}}
    if item.tensor is not None:
        location["logicalLocations"] = [{"name": printable(item.tensor), "kind": "parameter"}]
    return {
        "ruleId": item.rule,
        "ruleIndex": places[item.rule],
        "level": _LEVELS[item.severity],
        "message": {"text": f"{printable(item.message)} {item.remedy}"},
        "locations": [location],
        "partialFingerprints": {"trajfile/v1": f"{path}#{item.fingerprint}"},
        "baselineState": "unchanged" if item.known else "new",
    }


def _uri(path: str) -> str:
    if "://" in path:
        return quote(path, safe=":/%?&=")
    absolute = Path(path).is_absolute()
    text = quote(Path(path).as_posix())
    return f"file://{text}" if absolute else text
