"""Tensors are chosen by globs and steps by value, alike in every stream."""

from __future__ import annotations

import numpy as np
import pytest

import trajfile
from tests.unit.in_memory import record, trajectory
from trajfile.reader import Trajectory


@pytest.fixture(scope="module")
def wide() -> Trajectory:
    """Params every 10 steps, gradients every 5, samples at 0 and 20, the loss at every step."""
    names = ("conv1.weight", "conv1.bias", "fc.weight")

    def append(step):
        row = {name: np.full(2, step, np.float32) for name in names}
        streams = {}
        if step % 10 == 0:
            streams["params"] = row
        if step % 5 == 0:
            streams["gradients"] = row
        if step in {0, 20}:
            streams["gradient_samples"] = {name: np.stack([row[name]] * 3) for name in names}
        return step, streams, {"loss": step}

    return Trajectory(
        record(
            map(append, range(40)),
            optimizer={"name": "Adam"},
            groups={"layers": ("conv1.weight", "fc.weight"), "norm": ("conv1.bias",)},
            gradient={"stage": "raw"},
            metadata={"seed": 1},
        )
    )


def test_the_header_holds_everything_by_default(wide):
    header = wide.header()
    assert header.steps["params"].tolist() == [0, 10, 20, 30]
    assert header.steps["gradient_samples"].tolist() == [0] * 3 + [20] * 3
    assert list(header.tensors["params"]) == ["conv1.weight", "conv1.bias", "fc.weight"]
    assert header.scalars["loss"][0].tolist() == list(range(40))
    assert header.optimizer == {"name": "Adam"}
    assert header.gradient == {"stage": "raw"}
    assert header.metadata == {"seed": 1}
    assert header.has("params", "gradients", "gradient_samples")
    assert not header.has("optimizer/exp_avg")
    assert header.tensors["optimizer/exp_avg"] == {}


@pytest.mark.parametrize(
    ("steps", "params", "gradients", "losses"),
    [
        ("10:30", [10, 20], [10, 15, 20, 25], 20),
        (":20", [0, 10], [0, 5, 10, 15], 20),
        ("20:", [20, 30], [20, 25, 30, 35], 20),
        ("::20", [0, 20], [0, 20], 2),
        ("5:36:15", [20], [5, 20, 35], 3),
        (slice(5, 36, 15), [20], [5, 20, 35], 3),
        ("30:1000", [30], [30, 35], 10),
        ("30:" + "9" * 40, [30], [30, 35], 10),
        ("0::" + "9" * 40, [0], [0], 1),
        ("35:36", [], [35], 1),
    ],
)
def test_steps_are_chosen_by_value_in_every_stream(wide, steps, params, gradients, losses):
    header = wide.header(steps=steps)
    assert header.steps["params"].tolist() == params
    assert header.steps["gradients"].tolist() == gradients
    assert len(header.scalars["loss"][0]) == losses


@pytest.mark.parametrize(
    ("globs", "names"),
    [
        (["*.weight"], ["conv1.weight", "fc.weight"]),
        ("conv1.*", ["conv1.weight", "conv1.bias"]),
        (["fc.*", "*.bias"], ["conv1.bias", "fc.weight"]),
        (["conv[0-9].weight"], ["conv1.weight"]),
    ],
)
def test_tensors_are_chosen_by_globs_in_every_stream(wide, globs, names):
    header = wide.header(params=globs)
    for stream in ("params", "gradients", "gradient_samples"):
        assert list(header.tensors[stream]) == names
    assert header.groups["layers"] == tuple(n for n in names if n.endswith("weight"))


@pytest.mark.parametrize(
    ("selection", "says"),
    [
        ({"params": ["Conv1.weight"]}, "near it: conv1.weight"),
        ({"params": ["zzz"]}, "no tensor matches 'zzz'"),
        ({"params": ["*.weight", "nope*"]}, "'nope"),
        ({"steps": "50:60"}, r"steps 50:60 select nothing: memory holds steps 0 to 35"),
        ({"steps": "1:5"}, "select nothing"),
        ({"steps": "9" * 40 + ":"}, "select nothing"),
        ({"steps": "5"}, "a:b"),
        ({"steps": "-5:"}, "a:b"),
        ({"steps": "a:b"}, "a:b"),
        ({"steps": "0:10:0"}, "stride"),
        ({"steps": slice(-5, None)}, "at least 0"),
        ({"steps": slice(0, 5, -1)}, "stride"),
    ],
)
def test_a_selection_that_selects_nothing_is_refused(wide, selection, says):
    with pytest.raises(trajfile.UsageError, match=says):
        wide.header(**selection)


def test_a_run_of_scalars_alone_is_selected_by_its_scalars():
    run = trajectory((k, {}, {"loss": k}) for k in range(4))
    assert run.header(steps="2:").scalars["loss"][0].tolist() == [2, 3]
    with pytest.raises(trajfile.UsageError, match="holds steps 0 to 3"):
        run.header(steps="9:")
    with pytest.raises(trajfile.UsageError, match="holds no tensors"):
        run.header(params=["*"])
