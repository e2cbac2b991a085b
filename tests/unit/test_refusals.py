"""What cannot be recorded is refused by name and leaves no trace."""

from __future__ import annotations

import math

import numpy as np
import pytest

import trajfile
from tests.unit.runs import theta
from trajfile.containers.digest import digest

F32 = np.float32


@pytest.fixture
def h5(tmp_path):
    return tmp_path / "run.h5"


REFUSED = {
    "step back": (dict(step=1, params=theta(0)), "StepOrder", "", ""),
    "step again": (dict(step=2, params=theta(0)), "StepOrder", "params", ""),
    "scalars again": (dict(step=2, scalars={"loss": 1}), "StepOrder", "scalars", ""),
    "negative step": (dict(step=-1, params=theta(0)), "RecordError", "", ""),
    "fractional step": (dict(step=2.5, params=theta(0)), "RecordError", "", ""),
    "bool step": (dict(step=True, params=theta(0)), "RecordError", "", ""),
    "huge step": (dict(step=2**63, params=theta(0)), "RecordError", "", ""),
    "shape": (
        dict(step=3, params={**theta(0), "w": np.zeros((4, 3), F32)}),
        *("ShapeMismatch", "params", "w"),
    ),
    "dtype": (
        dict(step=3, params={**theta(0), "w": np.zeros((3, 4))}),
        "ShapeMismatch",
        "params",
        "w",
    ),
    "gradient dtype": (
        dict(step=3, gradients={"w": np.zeros((3, 4), np.int8)}),
        *("ShapeMismatch", "gradients", "w"),
    ),
    "missing": (dict(step=3, params={"w": theta(0)["w"]}), "MissingTensor", "params", "b"),
    "missing as None": (
        dict(step=3, params={**theta(0), "s": None}),
        "MissingTensor",
        "params",
        "s",
    ),
    "unknown": (
        dict(step=3, gradients={"w": theta(0)["w"], "x": theta(0)["s"]}),
        *("UnknownTensor", "gradients", "x"),
    ),
    "gradient of another shape": (
        dict(step=3, gradients={"w": theta(0)["w"], "s": np.zeros(2, F32)}),
        *("ShapeMismatch", "gradients", "s"),
    ),
    "no lane": (
        dict(step=3, params={**theta(0), "n": np.zeros(2, np.int32)}),
        *("RecordError", "params", "n"),
    ),
    "undeclared": (dict(step=3, updates=theta(0)), "UndeclaredStream", "updates", ""),
    "undeclared slot": (
        dict(step=3, optimizer={"exp_avg": theta(0)}),
        *("UndeclaredStream", "optimizer/exp_avg", ""),
    ),
    "slots without names": (dict(step=3, optimizer=[theta(0)]), "RecordError", "optimizer", ""),
    "slot without tensors": (
        dict(step=3, optimizer={"exp_avg": theta(0)["w"]}),
        *("UndeclaredStream", "optimizer/exp_avg", ""),
    ),
    "bool": (
        dict(step=3, params={**theta(0), "w": np.ones((3, 4), bool)}),
        "RecordError",
        "params",
        "w",
    ),
    "list": (dict(step=3, params={**theta(0), "s": [1.0]}), "RecordError", "params", "s"),
    "name": (dict(step=3, params={**theta(0), "a\nb": F32(0)}), "RecordError", "", ""),
    "number for a name": (dict(step=3, params={1: F32(0)}), "RecordError", "params", ""),
    "no mapping": (dict(step=3, params=[("w", theta(0)["w"])]), "RecordError", "params", ""),
    "samples differ": (
        dict(step=3, gradient_samples={"w": np.zeros((2, 3, 4), F32), "b": np.zeros((3, 3))}),
        *("ShapeMismatch", "gradient_samples", "b"),
    ),
    "no sample": (
        dict(step=3, gradient_samples={"w": np.zeros((0, 3, 4), F32), "b": np.zeros((0, 3))}),
        *("ShapeMismatch", "gradient_samples", "w"),
    ),
    "sample without axis": (
        dict(step=3, gradient_samples={"w": F32(0), "b": np.zeros((2, 3))}),
        *("ShapeMismatch", "gradient_samples", "w"),
    ),
    "text for a number": (dict(step=3, scalars={"loss": "0.3"}), "RecordError", "", ""),
    "scalar with axes": (dict(step=3, scalars={"loss": np.ones(2)}), "RecordError", "", ""),
    "scalars no mapping": (dict(step=3, scalars=[0.3]), "RecordError", "", ""),
    "scalar name": (dict(step=3, scalars={"\x1b[31m": 1.0}), "RecordError", "", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_recorded_leaves_no_trace(case, h5):
    call, kind, stream, tensor = REFUSED[case]
    with trajfile.Writer(h5) as writer:
        writer.declare("gradient_samples", like={k: theta(0)[k] for k in ("w", "b")})
        writer.append(2, params=theta(2), gradients={"w": theta(3)["w"]}, scalars={"loss": 1.0})
        with trajfile.open(h5) as run:
            before = digest(run.container)
        with pytest.raises(trajfile.RecordError) as caught:
            writer.append(**call)
        with trajfile.open(h5) as run:
            assert digest(run.container) == before
        assert type(caught.value).__name__ == kind
        assert (caught.value.stream, caught.value.tensor) == (stream, tensor)
        for part in filter(None, (stream, tensor)):
            assert part in str(caught.value)
        if isinstance(call["step"], int) and 0 <= call["step"] < 2**63 and call["step"] is not True:
            assert caught.value.step == call["step"]
            assert f"{call['step']}" in str(caught.value)
        writer.append(3, params=theta(3))
    with trajfile.open(h5) as run:
        assert run.steps("params").tolist() == [2, 3]


def test_the_remedies_are_named(h5):
    with trajfile.Writer(h5) as writer:
        writer.append(0, params=theta(0))
        with pytest.raises(trajfile.UndeclaredStream, match=r"declare\('updates', like=params\)"):
            writer.append(1, updates=theta(1))
        with pytest.raises(trajfile.UndeclaredStream, match=r"before the first append"):
            writer.declare("updates", like=theta(0))
        with pytest.raises(trajfile.RecordError, match="declare a tensor of that dtype"):
            writer.append(1, params={**theta(1), "n": np.zeros(2, np.int32)})
        with pytest.raises(trajfile.RecordError, match="convert it yourself"):
            writer.append(1, params={**theta(1), "w": np.ones((3, 4), complex)})


@pytest.mark.parametrize(
    ("stream", "like", "says"),
    [
        ("weights", theta(0), "not a stream name"),
        ("optimizer/a b", theta(0), "not a stream name"),
        ("gradients", {}, "without any tensor"),
        ("gradients", "params", "not declared"),
        ("gradients", {"w": [1.0]}, "not an array"),
        ("updates", theta(0), "declared already"),
    ],
)
def test_a_declaration_that_says_nothing_useful_is_refused(stream, like, says, h5):
    with trajfile.Writer(h5) as writer:
        writer.declare("updates", like=theta(0))
        with pytest.raises(trajfile.RecordError, match=says):
            writer.declare(stream, like=like)


def test_declared_streams_must_speak_of_the_params(h5):
    with trajfile.Writer(h5) as writer:
        writer.declare("gradients", like={"other": np.zeros(2)})
        with pytest.raises(trajfile.UnknownTensor, match="'other'"):
            writer.append(0, params=theta(0))
        assert not h5.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"mode": "r"}, "mode 'r'"),
        ({"compression": "lzma"}, "compression 'lzma'"),
        ({"durability": "maybe"}, "durability 'maybe'"),
        ({"queue_bytes": 0}, "queue_bytes"),
        ({"gradient": {"stage": "unscaled"}}, "raw, scaled, clipped"),
        ({"gradient": {"source": "batch"}}, "mini_batch, full_batch"),
        ({"gradient": {"batch_size": 0}}, "batch_size"),
        ({"gradient": {"batch_size": 2.5}}, "batch_size"),
        ({"optimizer": {"name": 3}}, "expected a text"),
        ({"optimizer": {"weight_decay": "0.1"}}, "weight_decay"),
        ({"optimizer": {"momentum": -0.1}}, "momentum"),
        ({"optimizer": {"nesterov": 1}}, "true or false"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "betas"),
        ({"optimizer": "SGD"}, "must be a mapping"),
        ({"groups": {"layers": "w"}}, "list of tensor names"),
        ({"groups": {"layers": ["w", "w"]}}, "twice"),
        ({"metadata": {"a": {"b": [1, {2}]}}}, r"metadata\['a'\]\['b'\]\[1\] is \{2\}"),
        ({"metadata": {"a": math.inf}}, "inf"),
        ({"metadata": {1: 2}}, "keys are text"),
        ({"metadata": {"a": 2**64}}, "JSON cannot hold"),
        ({"metadata": {"a": "\ud800"}}, "not valid Unicode"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(arguments, says, h5):
    with pytest.raises(trajfile.UsageError, match=says):
        trajfile.Writer(h5, **arguments)
    assert not h5.exists()


def test_metadata_that_contains_itself_is_refused(h5):
    endless: dict = {}
    endless["again"] = endless
    with pytest.raises(trajfile.UsageError, match="nested deeper"):
        trajfile.Writer(h5, metadata=endless)
