"""Runs that hold too little, or nothing but NaN or zeros: a clear word each, no invented number."""

from __future__ import annotations

import json
from functools import partial

import jsonschema
import numpy as np
import pytest

import trajfile
from tests.unit.schemas import report_schema
from trajfile.metrics import METRICS

STEPS = 40
SHAPES = {"first": (4, 3), "second": (2, 4), "bias": (2,)}
OPTIMIZER = {"name": "SGD", "momentum": 0.0, "weight_decay": 1e-3}


def ordinary(steps=STEPS):
    """A run with every stream and scalar, by step."""
    normal = np.random.default_rng(0).normal
    theta = {name: normal(size=shape) for name, shape in SHAPES.items()}
    for step in range(steps):
        slopes = {n: v / 4 + 0.1 * normal(size=v.shape) for n, v in theta.items()}
        updates = {n: slopes[n] + 1e-3 * theta[n] for n in theta}
        row = {
            "params": theta,
            "gradients": slopes,
            "updates": updates,
            "scalars": {"loss": 1.0 + sum((v**2).sum() for v in theta.values()) / 8},
        }
        row["scalars"]["learning_rate"] = 0.1
        if step % 5 == 0:
            row["gradient_samples"] = {n: v + normal(size=(6, *v.shape)) for n, v in slopes.items()}
        yield step, row
        theta = {n: theta[n] - 0.1 * updates[n] for n in theta}


def write(path, rows, *, optimizer=None, groups=None):
    with trajfile.Writer(
        path,
        optimizer=OPTIMIZER if optimizer is None else optimizer,
        groups={"scale_invariant": ["first"], "layers": ["first", "second"]}
        if groups is None
        else groups,
        gradient={"stage": "raw", "source": "full_batch"},
    ) as writer:
        for step, row in rows:
            writer.append(step, **row)


STREAMS = ("params", "gradients", "updates", "gradient_samples")


def only(*kept):
    """The run with these streams alone, beside its scalars."""
    for step, row in ordinary():
        yield step, {name: row[name] for name in (*kept, "scalars") if name in row}


def without(scalar):
    for step, row in ordinary():
        row["scalars"].pop(scalar)
        yield step, row


def scalar(name, value):
    for step, row in ordinary():
        row["scalars"][name] = value
        yield step, row


def filled(value, *streams, since=0, scalars=()):
    """Every coordinate of some streams is the value, from a step on."""
    for step, row in ordinary():
        if step >= since:
            for stream in (*(streams or STREAMS),):
                row[stream] = {n: np.full_like(v, value) for n, v in row.get(stream, {}).items()}
            row["scalars"] |= dict.fromkeys(scalars, value)
        yield step, {name: held for name, held in row.items() if held}


def frozen(**changes):
    """Params that never move, and updates that are zero."""
    first = None
    for step, row in ordinary():
        first = first or row["params"]
        row["params"] = first
        row["updates"] = {n: np.zeros_like(v) for n, v in first.items()}
        yield step, row


def still():
    """As `frozen`, with zero gradients too."""
    for step, row in frozen():
        row["gradients"] = {n: np.zeros_like(v) for n, v in row["params"].items()}
        row["gradient_samples"] = {n: np.zeros((6, *v.shape)) for n, v in row["params"].items()}
        yield step, row


def scaled(factor):
    for step, row in ordinary():
        for stream in STREAMS:
            if stream in row:
                row[stream] = {n: v * factor for n, v in row[stream].items()}
        yield step, row


def empty_tensors():
    for step, row in ordinary():
        nothing = {"first": np.zeros((0, 3)), "second": np.zeros((2, 0))}
        yield step, {"params": nothing, "gradients": nothing, "scalars": row["scalars"]}


def integers():
    for step, row in ordinary():
        counted = {n: np.round(v * 100).astype(np.int32) for n, v in row["params"].items()}
        yield step, {"params": counted, "scalars": row["scalars"]}


RUNS = {
    "ordinary": ordinary,
    "no learning rate": partial(without, "learning_rate"),
    "no loss": partial(without, "loss"),
    "learning rate zero": partial(scalar, "learning_rate", 0.0),
    "learning rate negative": partial(scalar, "learning_rate", -0.1),
    "learning rate NaN": partial(scalar, "learning_rate", np.nan),
    "loss NaN": partial(scalar, "loss", np.nan),
    "loss infinite": partial(scalar, "loss", np.inf),
    "loss constant": partial(scalar, "loss", 1.0),
    "NaN from the middle on": partial(filled, np.nan, since=20, scalars=("loss",)),
    "NaN gradients": partial(filled, np.nan, "gradients", "updates", "gradient_samples"),
    "infinite at the end": partial(filled, np.inf, since=STEPS - 1),
    "nothing but NaN": partial(filled, np.nan, scalars=("loss", "learning_rate")),
    "nothing but zeros": partial(filled, 0.0, scalars=("loss", "learning_rate")),
    "one snapshot": partial(ordinary, 1),
    "two snapshots": partial(ordinary, 2),
    "three snapshots": partial(ordinary, 3),
    "constant params": frozen,
    "zero gradients": still,
    "huge": partial(scaled, 1e200),
    "minute": partial(scaled, 1e-200),
    "empty tensors": empty_tensors,
    "integer params": integers,
    "params alone": partial(only, "params"),
    "gradients alone": partial(only, "gradients"),
    "samples alone": partial(only, "gradient_samples"),
    "scalars alone": partial(only),
}

UNTOLD = [
    {},
    {"name": None, "momentum": None, "weight_decay": None, "learning_rate": None},
    {"name": "SGD", "momentum": 1.0, "nesterov": True, "weight_decay": 0.1},
    {"name": "RMSprop", "momentum": 0.9, "alpha": 0.99, "weight_decay": 0.1},
]

#: What must be undefined in a run, of metrics that are ok all the same.
UNDEFINED = {
    "no learning rate": {
        "elr": ["elr_first", "elr_last", "equilibrium_ratio", "equilibrium_angle"],
        "imbalance": ["law_residual", "decay_rate_expected"],
        "sharpness": ["threshold_last", "edge_ratio_last", "at_edge"],
        "periodicity": ["law_residual_median"],
    },
    "no loss": {
        "alignment": ["gamma_trajectory", "gamma_aggregate"],
        "elr": ["regime_since_step"],
        "imbalance": ["phase_boundary_step", "decay_rate"],
    },
    "learning rate zero": {"sharpness": ["threshold_last"], "elr": ["equilibrium_ratio"]},
    "learning rate negative": {"sharpness": ["threshold_last"], "elr": ["equilibrium_ratio"]},
    "learning rate NaN": {"elr": ["elr_last"], "sharpness": ["threshold_last"]},
    "loss NaN": {"alignment": ["gamma_trajectory", "gamma_aggregate"]},
    "loss infinite": {"alignment": ["gamma_trajectory", "gamma_aggregate", "bound_left"]},
    "NaN from the middle on": {"elr": ["equilibrium_ratio"]},
    "two snapshots": {
        "elr": ["equilibrium_ratio", "regime_since_step"],
        "periodicity": ["periodic"],
        "sharpness": ["at_edge"],
    },
    "constant params": {"imbalance": ["law_residual"], "geometry": ["straightness"]},
    "nothing but zeros": {
        "norms": ["relative_update_median", "non_finite_step"],
        "geometry": ["straightness"],
    },
    "zero gradients": {"gradient_noise": ["conditioning_last", "break_even_step"]},
    "params alone": {"imbalance": ["law_residual"], "periodicity": ["law_residual_median"]},
}

#: Metrics that cannot say anything about a run.
WITHOUT_FIGURES = {
    "NaN from the middle on": ["alignment"],
    "NaN gradients": ["alignment", "sharpness", "gradient_noise"],
    "infinite at the end": ["alignment"],
    "nothing but NaN": [
        *("alignment", "elr", "imbalance", "sharpness", "periodicity", "gradient_noise"),
        "geometry",
    ],
    "nothing but zeros": ["alignment", "elr", "sharpness", "periodicity"],
    "one snapshot": ["alignment", "imbalance", "sharpness", "periodicity", "geometry"],
    "two snapshots": ["alignment"],
    "constant params": ["alignment", "sharpness"],
    "zero gradients": ["alignment", "sharpness"],
    "empty tensors": ["alignment", "elr", "sharpness", "periodicity", "gradient_noise"],
    "params alone": ["sharpness", "gradient_noise"],
    "gradients alone": [name for name in METRICS if name != "norms"],
    "samples alone": [name for name in METRICS if name != "gradient_noise"],
    "scalars alone": list(METRICS),
}


def no_such_number(text):
    raise AssertionError(f"{text} is not JSON")


def analysed(run, path):
    """The report as JSON, and the screen; both without a word on stderr."""
    screen, document = run("analyze", path), run("analyze", path, "--json", "-")
    for outcome in (screen, document):
        assert outcome.code == 0
        assert outcome.err == ""
    built = json.loads(document.out, parse_constant=no_such_number)
    jsonschema.Draft202012Validator(report_schema()).validate(built)
    for name, result in built["metrics"].items():
        assert result["status"] != "error", (name, result["reason"])
        if result["status"] != "ok":
            assert result["reason"].strip(), name
            assert result["sentence"] is None, name
    assert built["verdict"].strip()
    assert all(name in screen.out for name in METRICS)
    return built["metrics"], screen.out


@pytest.mark.parametrize("name", RUNS)
def test_run_is_reported_without_errors(name, run, tmp_path):
    write(tmp_path / "run.h5", RUNS[name]())
    metrics, _ = analysed(run, tmp_path / "run.h5")
    for metric, keys in UNDEFINED.get(name, {}).items():
        assert metrics[metric]["status"] == "ok", metric
        told = metrics[metric]["summary"]
        assert {key: told[key] for key in keys} == dict.fromkeys(keys), metric
    if name in WITHOUT_FIGURES:
        mute = [metric for metric, result in metrics.items() if result["status"] != "ok"]
        assert sorted(mute) == sorted(WITHOUT_FIGURES[name])


def test_rate_over_an_infinite_norm_is_not_zero(run, tmp_path):
    write(tmp_path / "run.h5", RUNS["infinite at the end"]())
    metrics, _ = analysed(run, tmp_path / "run.h5")
    rates = metrics["elr"]["series"]["elr"]["value"]
    assert rates[-1] is None
    assert metrics["elr"]["summary"]["elr_last"] == rates[-2] > 0
    assert metrics["elr"]["per_tensor"]["first"]["summary"]["elr"] == rates[-2]


def test_loss_that_turns_infinite_makes_gamma_undefined_only_there(run, tmp_path):
    rows = list(ordinary())
    rows[10][1]["scalars"]["loss"] = np.inf
    write(tmp_path / "run.h5", rows)
    metrics, _ = analysed(run, tmp_path / "run.h5")
    gamma = metrics["alignment"]["series"]["gamma"]["value"]
    assert gamma[10] is None
    assert gamma[9] > 0 < gamma[11]
    assert metrics["alignment"]["summary"]["gamma_trajectory"] > 0
    assert metrics["norms"]["summary"]["non_finite_step"] == 10


@pytest.mark.parametrize("name", ["nothing but zeros", "zero gradients", "empty tensors"])
def test_nothing_is_never_called_a_regime_or_a_period(name, run, tmp_path):
    write(tmp_path / "run.h5", RUNS[name]())
    metrics, _ = analysed(run, tmp_path / "run.h5")
    assert metrics["elr"]["summary"]["regime"] == "undetermined"
    assert metrics["periodicity"]["summary"]["periodic"] is not True


@pytest.mark.parametrize("optimizer", UNTOLD, ids=str)
def test_optimizer_stated_strangely_is_no_error(optimizer, run, tmp_path):
    write(tmp_path / "run.h5", ordinary(), optimizer=optimizer)
    analysed(run, tmp_path / "run.h5")


@pytest.mark.parametrize("name", ["NaN from the middle on", "nothing but NaN", "one snapshot"])
def test_groups_need_not_be_declared(name, run, tmp_path):
    write(tmp_path / "run.h5", RUNS[name](), groups={})
    analysed(run, tmp_path / "run.h5")
