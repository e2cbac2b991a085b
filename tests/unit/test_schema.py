"""The manifest: what it may say, and the JSON schemas that say it to others."""

from __future__ import annotations

import json

import jsonschema
import pytest

import trajfile
from tests.unit.runs import theta
from tests.unit.schemas import SCHEMAS, SPEC, manifest_schema, text
from trajfile.schema import (
    NOT_YET,
    Identity,
    Manifest,
    SchemaError,
    StreamSpec,
    TensorSpec,
    check_manifest,
    parse_manifest,
)


def of(*tensors: TensorSpec, stream: str = "params") -> Manifest:
    return Manifest(streams=(StreamSpec(stream, tensors),))


def test_a_manifest_survives_its_line():
    tensors = (
        TensorSpec("w", (3, 2), "float32", 0),
        TensorSpec("b", (), "bfloat16", 0),
        TensorSpec("e", (0, 4), "float32", 6),
        TensorSpec("v", (2,), "float32", 6, 5),
    )
    manifest = Manifest(
        streams=(StreamSpec("params", tensors), StreamSpec("optimizer/exp_avg", ())),
        scalars=("loss", "η"),
        optimizer={"name": "SGD", "betas": [0.9, None]},
        groups={"layers": ("w",)},
        gradient={"stage": "raw"},
        metadata={"text": "a\nb\u2028", "deep": [{"x": 1.5}]},
        software="me 1",
    )
    line = manifest.to_line()
    assert line.count(b"\n") == 1
    assert parse_manifest(b"what came before\n" + line) == manifest
    assert manifest.by_name["params"].lanes == {"float32": 8, "bfloat16": 1}
    assert manifest.by_name["params"].row_bytes == 8 * 4 + 2
    assert manifest.by_name["params"].by_name["v"].columns == slice(6, 8)


def test_unknown_fields_are_ignored():
    line = b'{"streams": [], "flavour": "new", "scalars": ["loss"]}\n'
    assert parse_manifest(line) == Manifest(scalars=("loss",))


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (b"", "newline"),
        (b"{}", "newline"),
        (b"{}\n{\n", "not valid"),
        (b'{"streams": 3}\n', "not valid"),
        (b'{"streams": [{"name": "params"}]}\n', "not valid"),
        (b'{"scalars": ["\xff"]}\n', "not valid"),
        (b"[" * 10**6 + b"\n", "not valid"),
        (b'{"metadata": ' + b"[" * 10**6 + b"\n", "not valid"),
    ],
)
def test_bytes_that_are_no_manifest(lines, says):
    with pytest.raises(SchemaError, match=says) as caught:
        parse_manifest(lines)
    assert caught.value.rule == "CORE-013"


W = TensorSpec("w", (2,), "float32", 0)


@pytest.mark.parametrize(
    ("manifest", "rule"),
    [
        (Manifest(streams=(StreamSpec("params", ()), StreamSpec("params", ()))), "STR-001"),
        (of(stream="weights"), "STR-001"),
        (of(stream="optimizer/"), "STR-001"),
        (of(stream="optimizer/a/b"), "STR-001"),
        (of(stream="optimizer/.."), "STR-001"),
        (of(stream="params\n"), "STR-001"),
        (Manifest(scalars=("a", "a")), "STR-002"),
        (Manifest(scalars=("",)), "STR-003"),
        (Manifest(scalars=("\x1b[31m",)), "STR-003"),
        (of(TensorSpec("a" * 1025, (), "float32", 0)), "STR-003"),
        (of(W, TensorSpec("w", (1,), "int8", 0)), "STR-004"),
        (of(TensorSpec("w", (1,), "float33", 0)), "DT-001"),
        (of(TensorSpec("w", (-1,), "float32", 0)), "STR-005"),
        (of(TensorSpec("w", (1,) * 33, "float32", 0)), "STR-005"),
        (of(TensorSpec("w", (1,), "float32", 0, -1)), "STR-005"),
        (of(TensorSpec("w", (2**40, 2**40), "float32", 0)), "STR-005"),
        (of(TensorSpec("w", (1,), "float32", 1)), "STR-006"),
        (of(W, TensorSpec("v", (1,), "float32", 1)), "STR-006"),
        (of(W, TensorSpec("v", (1,), "float32", 3)), "STR-006"),
        (of(TensorSpec("w", (2,), "int8", 0, 3), TensorSpec("v", (1,), "int8", 2, 1)), "STR-007"),
        (
            of(TensorSpec("w", (2,), "int8", 0, NOT_YET), TensorSpec("v", (1,), "int8", 2)),
            "STR-007",
        ),
    ],
)
def test_each_rule_of_the_manifest(manifest, rule):
    with pytest.raises(SchemaError) as caught:
        check_manifest(manifest)
    assert caught.value.rule == rule
    with pytest.raises(SchemaError):
        parse_manifest(manifest.to_line())


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schema_is_that_of_the_model(name):
    assert (SPEC / name).read_text() == text(SCHEMAS[name]()), (
        f"spec/{name} is not up to date: run `python -m tests.unit.schemas` and commit it"
    )


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schemas_are_schemas_and_describe_every_field(name):
    built = json.loads((SPEC / name).read_text())
    jsonschema.Draft202012Validator.check_schema(built)
    assert built["$id"].startswith("urn:trajfile:")
    assert all(part["description"] for part in (built, *built["$defs"].values()))


def test_a_recorded_manifest_fits_the_schema(tmp_path):
    with trajfile.Writer(tmp_path / "run.h5", optimizer={"name": "Adam"}) as writer:
        writer.append(0, params=theta(0), scalars={"loss": 1.0})
        writer.append(1, params={**theta(1), "late": theta(1)["b"]}, gradients=None)
    with trajfile.open(tmp_path / "run.h5") as run:
        line = json.loads(run.manifest.to_line(Identity(run.uuid, (1, 0))))
    jsonschema.Draft202012Validator(manifest_schema()).validate(line)


@pytest.mark.parametrize(
    "line",
    [
        '{"streams": [{"name": "weights", "tensors": []}]}',
        '{"streams": [{"name": "params", "tensors": [{"name": "w", "shape": [1]}]}]}',
        '{"streams": [{"name": "params", "tensors": '
        '[{"name": "w", "shape": [-1], "dtype": "int8", "offset": 0}]}]}',
        '{"streams": [{"name": "params", "tensors": '
        '[{"name": "w", "shape": [1], "dtype": "int9", "offset": 0}]}]}',
        '{"scalars": [""]}',
        '{"groups": {"layers": "w"}}',
        "[]",
    ],
)
def test_the_schema_refuses_what_the_parser_refuses(line):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(manifest_schema()).validate(json.loads(line))
    with pytest.raises(SchemaError):
        parse_manifest(line.encode() + b"\n")
