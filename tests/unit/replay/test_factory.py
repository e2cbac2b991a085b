"""What a factory may be, and the one clear sentence for everything else."""

from __future__ import annotations

import sys

import pytest

from trajfile.errors import UsageError
from trajfile.replay.factory import load_loss

GOOD = """
import sibling

def loss():
    print("made")
    return sibling.loss_at

def with_metadata(metadata):
    metadata["width"]
    return sibling.loss_at

def with_batches():
    return sibling.loss_at, (batch for batch in range(3))

def with_default(path="data"):
    assert path == "data"
    return sibling.loss_at

def writes(metadata):
    metadata["width"] = 5

def two(a, b):
    pass

def fails():
    raise ValueError("no such\\ndata")

def quits():
    raise SystemExit(3)

def nothing():
    pass

def odd_batches():
    return sibling.loss_at, 7

constant = 3
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    (tmp_path / "sibling.py").write_text("def loss_at(tensors, batch=None):\n    return 0\n")
    path = tmp_path / "model.py"
    path.write_text(GOOD)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield path
    sys.modules.pop("sibling", None)


def test_a_factory_may_take_nothing(file, capsys):
    loss = load_loss(f"{file}:loss", {})
    assert loss.function({}) == 0
    assert loss.batches is None
    assert loss.device == "cpu"
    out, err = capsys.readouterr()
    assert (out, err) == ("", "made\n")  # stdout is for the report


def test_it_is_given_the_metadata_if_it_asks_for_it_and_cannot_change_it(file):
    assert load_loss(f"{file}:with_metadata", {"width": 3}).function({}) == 0
    with pytest.raises(UsageError, match="does not support item assignment"):
        load_loss(f"{file}:writes", {"width": 3})


def test_an_argument_with_a_default_is_not_the_metadata(file):
    assert load_loss(f"{file}:with_default", {"width": 3}).function({}) == 0


def test_batches_that_can_be_gone_through_once_are_kept(file):
    batches = load_loss(f"{file}:with_batches", {}).batches
    assert list(batches) == list(batches) == [0, 1, 2]


def test_a_loss_says_where_it_wants_its_tensors():
    def loss(tensors):
        return tensors

    loss.device = "cuda:0"
    assert load_loss(lambda: loss, {}).device == "cuda:0"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", ["has no 'absent'", "It has loss, with_metadata"]),
        ("constant", ["has 'constant', an int", "expected a factory"]),
        ("two", ["takes 2 arguments"]),
        ("fails", ["the factory failed with ValueError: no such data", "(model.py, line 26)"]),
        ("quits", ["failed with SystemExit: 3"]),
        ("nothing", ["returned None", "expected the loss as a function"]),
        ("odd_batches", ["returned an int for the batches"]),
        ("with_metadata", ["KeyError: 'width'"]),
        ("no-name", ["not of the form file.py:factory"]),
        ("", ["not of the form file.py:factory"]),
    ],
)
def test_anything_else_is_refused_in_one_sentence(file, name, words):
    with pytest.raises(UsageError) as refused:
        load_loss(f"{file}:{name}", {})
    message = str(refused.value)
    assert message.startswith("--replay ")
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def loss(:\n", ["SyntaxError", "line 1"]),
        ("import no_such_module_here\n", ["ModuleNotFoundError", "model.py, line 1"]),
        ("\n\n1 / 0\n", ["ZeroDivisionError", "model.py, line 3"]),
    ],
)
def test_a_file_that_cannot_be_imported(file, content, words):
    file.write_text(content)
    with pytest.raises(UsageError) as refused:
        load_loss(f"{file}:loss", {})
    assert all(word in str(refused.value) for word in words), refused.value


def test_files_that_are_not_python(tmp_path):
    with pytest.raises(UsageError, match="there is no file"):
        load_loss(f"{tmp_path}/absent.py:loss", {})
    (tmp_path / "model.txt").write_text("")
    with pytest.raises(UsageError, match="not a Python file"):
        load_loss(f"{tmp_path}/model.txt:loss", {})
