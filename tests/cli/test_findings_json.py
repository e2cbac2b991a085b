"""`validate --json`: one document that fits its published schema."""

import json
from pathlib import Path

import jsonschema
import pytest

import trajfile
from tests.conformance.breakers import BREAKERS, sound_run

SCHEMA = Path(__file__).parents[2] / "spec" / "findings.schema.json"


def fits(document):
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(document)


@pytest.mark.parametrize(
    ("rule", "kind", "code"),
    [(None, "hdf5", 0), ("USE-005", "zarr", 0), ("SUM-003", "hdf5", 1), ("ZR-001", "zarr", 1)],
)
def test_the_document_says_what_the_screen_says(run, tmp_path, rule, kind, code):
    path = sound_run(tmp_path / ("run.h5" if kind == "hdf5" else "run.zarr"))
    if rule:
        BREAKERS[rule, kind](path)
    outcome = run("validate", path, "--deep", "--json", "-")
    assert (outcome.code, outcome.err) == (code, "")
    document = json.loads(outcome.out)
    fits(document)
    assert document["schema"] == "trajfile.findings/1"
    assert document["path"] == str(path)
    assert document["deep"] is True
    assert document["valid"] is (code == 0)
    assert [finding["id"] for finding in document["findings"]] == ([rule] if rule else [])
    assert document["trajfile_version"] == trajfile.__version__

    written = run("validate", path, "--deep", "--json", tmp_path / "findings.json")
    assert written.code == code
    assert written.out == run("validate", path, "--deep").out
    assert json.loads((tmp_path / "findings.json").read_text()) == document


def test_a_document_without_a_place_is_refused_first(run, tmp_path, tiny):
    outcome = run("validate", tiny, "--json", tmp_path / "no/where.json")
    assert outcome.code == 2
    assert "does not exist" in outcome.err
