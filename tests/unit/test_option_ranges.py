"""Every option declares a range or a closed set, and is held to it."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from trajfile_cli.app import main

from tests.recorded import recorded
from tests.twin import Dense
from trajfile.analyze import analyze
from trajfile.choice import choose, range_of
from trajfile.errors import UsageError
from trajfile.metrics import METRICS
from trajfile.metrics.first_movers import FirstMovers
from trajfile.metrics.ranges import told
from trajfile.reader import Trajectory

HINTS = {
    f"{owner.id}.{field.name}": get_type_hints(owner, include_extras=True)[field.name]
    for owner in (*METRICS.values(), FirstMovers)
    for field in fields(owner)
}
RANGES = {name: meta for name, hint in HINTS.items() if (meta := range_of(hint)) is not None}
NUMBERS = {name: meta for name, meta in RANGES.items() if meta.min_length is None}


def whole(name: str) -> bool:
    return int in get_args(HINTS[name]) or int in (
        inner for part in get_args(HINTS[name]) for inner in get_args(part)
    )


def beside(name: str) -> tuple[list[Any], list[Any]]:
    """Values at the ends of an option's range, and just outside it."""
    meta, inside, outside = NUMBERS[name], [], []
    for closed, opened, away in ((meta.ge, meta.gt, -math.inf), (meta.le, meta.lt, math.inf)):
        if closed is not None:
            inside.append(closed)
            step = math.copysign(1, away)
            outside.append(closed + int(step) if whole(name) else math.nextafter(closed, away))
        if opened is not None:
            inside.append(math.nextafter(opened, -away))
            outside.append(opened)
    if not whole(name):
        outside += [math.nan, math.inf, -math.inf, "nan"]
        inside += [1e300] if meta.le is None and meta.lt is None else []
    return inside, outside


def tiny(rows: int = 12) -> Trajectory:
    """Gradient descent of two layers on a quadratic, with four gradients a step."""
    rng = np.random.default_rng(5)
    steps, rate = np.arange(rows), 0.1
    theta = {"a": np.full((2, 3), 2.0), "b": np.full((3, 2), -1.0)}
    params = {n: np.stack([v * (1 - rate) ** k for k in steps]) for n, v in theta.items()}
    samples = {
        n: np.repeat(v, 4, axis=0) + rng.standard_normal((4 * rows, *v.shape[1:]))
        for n, v in params.items()
    }
    loss = sum(0.5 * (v**2).sum(axis=(1, 2)) for v in params.values())
    return Trajectory(
        recorded(
            Dense(
                {"params": steps, "gradients": steps, "gradient_samples": np.repeat(steps, 4)},
                {"params": params, "gradients": params, "gradient_samples": samples},
                {"loss": (steps, loss), "learning_rate": (steps, np.full(rows, rate))},
                optimizer={"name": "SGD", "weight_decay": 0.01, "momentum": 0.0},
                groups={"scale_invariant": ["a"], "layers": ["a", "b"]},
                gradient={"stage": "raw", "source": "full_batch"},
            )
        )
    )


@pytest.mark.parametrize("name", HINTS)
def test_every_option_has_a_range_or_is_one_of_a_few(name):
    hint = HINTS[name]
    assert name in RANGES or hint is bool or get_origin(hint) is Literal


@pytest.mark.parametrize("name", NUMBERS)
def test_values_just_outside_are_refused_with_what_is_allowed(name):
    for value in beside(name)[1]:
        with pytest.raises(UsageError) as refused:
            choose(None, {name: value})
        assert f"it is to be {told(NUMBERS[name])}" in str(refused.value)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NUMBERS)
def test_values_at_the_ends_break_no_metric(name):
    metric = name.partition(".")[0]
    for value in beside(name)[0]:
        if metric == FirstMovers.id:
            report = analyze(tiny(), ["norms"], options={name: value}, around=8)
        else:
            report = analyze(tiny(), [metric], options={name: value})
        for result in report.metrics.values():
            assert result.status != "error", (value, result.reason)
        report.to_json()


@pytest.mark.parametrize("name", [name for name in NUMBERS if ".replay_" in name])
def test_ends_of_what_steers_a_replay_break_nothing(name):
    def loss():
        return lambda params: sum(0.5 * (tensor**2).sum() for tensor in params.values())

    for value in beside(name)[0]:
        report = analyze(tiny(4), ["sharpness"], options={name: value}, replay=loss)
        assert report.metrics["sharpness"].status != "error", value


@pytest.mark.parametrize(
    "setting", ["sharpness.window=0", "geometry.pca_rows=0", "alignment.tail=nan"]
)
def test_the_command_ends_with_the_status_of_wrong_usage(setting, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["analyze", "sample_data/two_phases.h5", "--option", setting])
    assert ended.value.code == 2
    assert "it is to be at least" in capsys.readouterr().err


def test_the_name_of_a_scalar_is_not_empty():
    with pytest.raises(UsageError, match="not empty"):
        choose(None, {"sharpness.recorded": ""})
