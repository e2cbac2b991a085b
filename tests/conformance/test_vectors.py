"""The conformance vectors: two readers that share no code pass them, and they stay as they are."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trajfile
from tests.conformance.vectors.make import FOLDER, files_of, make
from trajfile.rules import RULES

ROOT = Path(__file__).parents[2]
SECOND = Path(__file__).parent / "second_reader.py"
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def loaded():
    """The runner, which is no module of a package."""
    spec = importlib.util.spec_from_file_location("run_vectors", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNNER = loaded()
COMMANDS = [
    line for line in re.findall(r"^python spec/vectors/run\.py.*$", README, re.M) if "tests" in line
]


@pytest.mark.parametrize("command", COMMANDS, ids=["trajfile", "second reader"])
def test_both_readers_pass_as_the_readme_has_it(command):
    words = [sys.executable if word == "python" else word for word in shlex.split(command)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    count = len(RUNNER.vectors(""))
    assert done.stdout == f"{count} of {count} vectors passed\n"


def test_what_was_released_is_as_it_was():
    listed = dict(
        reversed(line.split("  ")) for line in (FOLDER / "SHA256SUMS").read_text().splitlines()
    )
    found = {
        file.relative_to(FOLDER).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files_of(FOLDER)
    }
    assert found == listed
    assert sum(file.stat().st_size for file in FOLDER.rglob("*")) < 2.5 * 2**20


def test_making_them_again_makes_the_same(tmp_path):
    make(tmp_path)
    again = {file.relative_to(tmp_path).as_posix(): file for file in files_of(tmp_path)}
    assert {file.relative_to(FOLDER).as_posix() for file in files_of(FOLDER)} == set(again)
    other = {name for name, file in again.items() if file.read_bytes() != _kept(name)}
    other -= {"broken/committed_type.h5"}  # which holds the time of its making
    # Another version of HDF5 or of a compressor may lay the same content out otherwise.
    if other:
        assert not any(name.endswith(".json") for name in other)
        shutil.copy(FOLDER / "run.py", tmp_path)
        done = subprocess.run(
            [sys.executable, tmp_path / "run.py", "--feature", "archive", "--",
             sys.executable, SECOND],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout


def _kept(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def test_making_them_leaves_what_is_there(tmp_path):
    kept = tmp_path / "valid" / "special_bits.h5"
    kept.parent.mkdir()
    kept.write_bytes(b"as released")
    assert make(tmp_path, "special_bits") == [
        "valid/special_bits.zarr.tar.gz",
        "valid/special_bits.json",
    ]
    assert kept.read_bytes() == b"as released"
    assert make(tmp_path, "special_bits") == []


def test_the_second_reader_shares_no_code_with_trajfile():
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(SECOND.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
        )
    }
    assert imported - sys.stdlib_module_names == {"h5py", "numpy", "numcodecs"}
    assert "test" not in imported
    assert "tests" not in imported


def test_every_rule_that_a_file_can_break_has_a_vector():
    broken = [json.loads(file.read_text()) for file in FOLDER.glob("broken/*.json")]
    no_file = {"CORE-001", "CORE-016"}  # nothing at the path; a reader that died
    assert {vector["rule"] for vector in broken} == {
        rule.id for rule in RULES.values() if rule.severity == "error"
    } - no_file


def test_a_vector_breaks_its_rule_and_no_other(tmp_path):
    for vector, answer in RUNNER.vectors("broken/"):
        packed = vector.suffix != ".h5"
        path = RUNNER.unpack(vector, tmp_path) if packed else vector
        rule = json.loads(answer.read_text())["rule"]
        errors = {f.id for f in trajfile.validate(path, deep=True) if f.severity == "error"}
        assert errors == {rule}, vector.name


ADAPTER = """
import json, sys
for line in sys.stdin:
    path = line.strip()
    {body}
"""
FAILURES = {
    "no answer": ("import time; time.sleep(60)", "no answer within 0.5 s"),
    "dies": ("sys.exit(3)", "the program ended without an answer"),
    "no JSON": ("print('readable', flush=True)", "not JSON: 'readable"),
    "no object": ("print('[1]', flush=True)", "neither 'content' nor 'refused'"),
    "both": ('print(\'{"content": {}, "refused": []}\', flush=True)', "or both"),
    "a text": ('print(\'{"refused": "SUM-003"}\', flush=True)', "not a list"),
    "refuses": ("print('{\"refused\": []}', flush=True)", "no rule named), but it is valid"),
    "says nothing": ("print('{\"content\": {}}', flush=True)", "content lacks 'format_version'"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_wrong_answer_fails(case, tmp_path, capsys):
    body, words = FAILURES[case]
    adapter = tmp_path / "adapter.py"
    adapter.write_text(ADAPTER.format(body=body))
    arguments = ["--only", "valid/killed.", "--limit", "0.5" if case == "no answer" else "30"]
    assert RUNNER.main([*arguments, "--", sys.executable, str(adapter)]) == 1
    printed = capsys.readouterr().out
    assert printed.count("FAIL valid/killed.") == 2
    assert words in printed
    assert "0 of 2 vectors passed" in printed


def test_no_vector_is_no_success(capsys):
    assert RUNNER.main(["--only", "no such name", "--", "true"]) == 1
    assert "0 of 0" in capsys.readouterr().out


def _changed(value, place):
    if not place:
        return not value if isinstance(value, bool) else "other"
    copy = list(value) if isinstance(value, list) else dict(value)
    copy[place[0]] = _changed(value[place[0]], place[1:])
    return copy


@pytest.mark.parametrize(
    "place",
    [
        ("uuid",),
        ("format_version", 1),
        ("commits", 2, "step"),
        ("commits", 2, "wall_ns"),
        ("scalars", "columns", 0, "bits", 1),
        ("streams", 0, "tensors", 1, "rows", 2),
        ("streams", 0, "tensors", 1, "shape"),
        ("streams", 0, "steps", 0),
        ("optimizer",),
    ],
)
def test_every_part_of_an_answer_is_compared(place):
    expected = json.loads((FOLDER / "valid" / "killed.json").read_text())
    found = {"content": _changed(expected["content"], place)}
    problem = RUNNER.verdict(expected, found, validator=False)
    assert "other" in problem
    assert all(str(part) in problem for part in place)
    assert RUNNER.verdict(expected, expected | {}, validator=False) is None


def test_lists_must_be_as_long_and_truth_is_no_number():
    assert RUNNER.difference([1, 2], [1]) == "content has 1 entries, expected 2"
    assert RUNNER.difference({"a": True}, {"a": 1}) == "content.a is 1, expected True"
    assert RUNNER.difference({"a": 1}, {"a": 1, "b": 2}) is None


def test_a_feature_that_is_required_is_known_or_the_vector_refused():
    expected = {"requires": ["archive", "tiles"], "content": {"uuid": "x"}}
    read, refused = {"content": {"uuid": "x"}}, {"refused": ["CORE-005"]}

    def wrong(found, *features):
        return RUNNER.verdict(expected, found, validator=False, features=features)

    assert wrong(read, "tiles", "archive") is None
    assert "it is valid" in wrong(refused, "tiles", "archive")
    assert wrong(refused, "tiles") is None
    assert wrong(read, "tiles") == "read, but it breaks CORE-005"


def test_a_reader_may_read_what_only_a_validator_must_find():
    soft = {"rule": "STR-008", "detected_by": "validator"}
    hard = {"rule": "SUM-003", "detected_by": "every reader"}
    read, vague, other = {"content": {}}, {"refused": []}, {"refused": ["COM-001"]}
    assert RUNNER.verdict(soft, read, validator=False) is None
    assert RUNNER.verdict(soft, read, validator=True) == "read, but it breaks STR-008"
    assert RUNNER.verdict(hard, read, validator=False) == "read, but it breaks SUM-003"
    assert RUNNER.verdict(hard, vague, validator=False) is None
    assert "no rule named" in RUNNER.verdict(hard, vague, validator=True)
    assert "COM-001" in RUNNER.verdict(hard, other, validator=True)
