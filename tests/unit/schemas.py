"""The JSON schemas as the models imply them; run as a module, it writes them into spec/.

python -m tests.unit.schemas
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import msgspec

from trajfile import findings, report, schema
from trajfile.dtypes import ITEM_SIZES

SPEC = Path(__file__).parents[2] / "spec"


def manifest_schema() -> dict[str, Any]:
    """One line of /manifest."""
    built = _schema(schema.Manifest, "manifest/1.0", "One line of /manifest in a trajectory")
    stream, tensor = built["$defs"]["StreamSpec"], built["$defs"]["TensorSpec"]
    stream["properties"]["name"]["pattern"] = f"^({schema._STREAM_NAME.pattern})$"
    tensor["properties"]["dtype"]["enum"] = list(ITEM_SIZES)
    tensor["properties"]["shape"]["items"]["minimum"] = 0
    tensor["properties"]["shape"]["maxItems"] = 32
    tensor["properties"]["offset"]["minimum"] = tensor["properties"]["first_row"]["minimum"] = 0
    for name in (tensor["properties"]["name"], built["properties"]["scalars"]["items"]):
        name.update(minLength=1, maxLength=schema._MAX_NAME)
    identity = _schema(schema.Identity, "", "")
    built["properties"]["identity"] = {
        key: identity[key] for key in ("type", "description", "properties", "required")
    }
    return built


def report_schema() -> dict[str, Any]:
    """What `Report.to_json` writes: every field is there."""
    built = _schema(report.Report, "report/1", "The outcome of one analysis of a trajectory")
    for model in (built, *built["$defs"].values()):
        model["required"] = list(model["properties"])
    built["properties"]["schema"] = {"const": report.SCHEMA}
    return built


def findings_schema() -> dict[str, Any]:
    """What `trajfile validate --json` writes: every field is there."""
    built = _schema(findings.Findings, "findings/1", "What validating a trajectory found")
    for model in (built, *built["$defs"].values()):
        model["required"] = list(model["properties"])
    built["properties"]["schema"] = {"const": findings.SCHEMA}
    return built


def text(built: dict[str, Any]) -> str:
    """As it stands in the file."""
    return json.dumps(built, indent=2, ensure_ascii=False) + "\n"


SCHEMAS = {
    "findings.schema.json": findings_schema,
    "manifest.schema.json": manifest_schema,
    "report.schema.json": report_schema,
}


def _schema(model: type, name: str, title: str) -> dict[str, Any]:
    _, parts = msgspec.json.schema_components([model])
    for key, part in parts.items():
        _describe(getattr(inspect.getmodule(model), key), part)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:trajfile:{name}",
        **parts.pop(model.__name__),
        "title": title,
        "$defs": parts,
    }


def _describe(kind: type, part: dict[str, Any]) -> None:
    """Spread a docstring over the model and its fields."""
    about, _, fields = inspect.getdoc(kind).partition("Attributes:\n")
    part["description"] = _prose(about)
    for found in re.finditer(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", fields, re.M):
        part["properties"][found[1]]["description"] = _prose(found[2])


def _prose(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


if __name__ == "__main__":
    for name, build in SCHEMAS.items():
        (SPEC / name).write_text(text(build()))
