"""What holds of each optimizer, against PyTorch's own, and what a report says where it does not."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import trajfile
from tests import toys, trainings
from tests.twin import Dense, measure
from trajfile.metrics.elr import Elr
from trajfile.metrics.optimizers import SENTENCES, kind_of
from trajfile.metrics.thresholds import stability_threshold

SPEC = (Path(__file__).parents[3] / "spec/metrics.md").read_text()
SGDS = ["sgd", "momentum", "dampened", "nesterov"]
KINDS = {
    "sgd": "plain",
    "momentum": "heavy_ball",
    "dampened": "heavy_ball",
    "nesterov": "nesterov",
    "adam": "adam",
    "adamw": "adamw",
    "lion": "other",
}


def _study(which):
    return pytest.param(which, marks=pytest.mark.slow)


# --- thresholds -----------------------------------------------------------------------------------


def header_of(which, rate, decay=0.0):
    _, stated = trainings.make(which, [torch.zeros(1)], rate, decay)
    return Dense({}, {}, {"learning_rate": ([0], [rate])}, stated).header


def first_to_diverge(which, curvatures, rate, decay=0.0):
    """Run the optimizer on Σ a x²/2, a coordinate for each curvature; the least that grows."""
    x = torch.full((len(curvatures),), 1e-6, dtype=torch.float64, requires_grad=True)
    optimizer, _ = trainings.make(which, [x], rate, decay)
    a = torch.as_tensor(curvatures)
    if which in {"adam", "adamw"}:
        # A preconditioner of one that stays, and bias corrections that are over.
        optimizer.param_groups[0]["betas"] = (0.9, 1 - 1e-12)
        optimizer.state[x] = {
            "step": torch.tensor(1e15, dtype=torch.float64),
            "exp_avg": torch.zeros_like(x),
            "exp_avg_sq": torch.ones_like(x),
        }
        optimizer.param_groups[0]["eps"] = 0.0
    largest = torch.zeros(len(a), dtype=torch.float64)
    for step in range(2000):
        x.grad = a * x.detach()
        optimizer.step()
        if step >= 1000:
            largest = torch.maximum(largest, x.detach().abs())
    grown = ~(largest < 1e-6).numpy()
    assert grown.any()
    assert not grown.all()
    return curvatures[np.argmax(grown)]


@pytest.mark.parametrize("which", [*SGDS, "adam", _study("adamw")])
def test_threshold_is_the_curvature_at_which_the_optimizer_itself_diverges(which):
    rate = 0.1
    limit = stability_threshold(header_of(which, rate), np.array([0])).values[0]
    curvatures = limit * np.linspace(0.9, 1.1, 201)
    assert first_to_diverge(which, curvatures, rate) == pytest.approx(limit, rel=2e-3)


@pytest.mark.parametrize("which", [*SGDS, _study("adam")])
def test_coupled_decay_takes_up_as_much_of_the_threshold(which):
    rate, decay = 0.1, 1.0
    limit = stability_threshold(header_of(which, rate, decay), np.array([0])).values[0]
    curvatures = (limit - decay) * np.linspace(0.9, 1.1, 201)
    found = first_to_diverge(which, curvatures, rate, decay)
    assert found == pytest.approx(limit - decay, rel=2e-3)


def test_decoupled_decay_lowers_the_threshold_of_adam_by_half_of_what_it_takes():
    rate, decay = 0.1, 1.0
    limit = stability_threshold(header_of("adamw", rate, decay), np.array([0])).values[0]
    lowered = limit * (1 - rate * decay / 2)
    found = first_to_diverge("adamw", lowered * np.linspace(0.9, 1.1, 201), rate, decay)
    assert found == pytest.approx(lowered, rel=2e-3)


def test_another_optimizer_has_no_threshold():
    threshold = stability_threshold(header_of("lion", 0.1), np.array([0]))
    assert np.isnan(threshold.values).all()
    assert threshold.rule is None
    assert threshold.note == "No stability threshold is known for Lion."


# --- rotation at equilibrium ----------------------------------------------------------------------


def turning_in_noise(which, rate, decay, *, steps=4000, size=300):
    """Scale-invariant weights under nothing but noise at right angles to them, by the optimizer."""
    generator = torch.Generator().manual_seed(1)
    theta = torch.randn(size, generator=generator, dtype=torch.float64)
    theta.div_(theta.norm()).requires_grad_(True)
    optimizer, stated = trainings.make(which, [theta], rate, decay)
    noise = torch.randn(steps, size, generator=generator, dtype=torch.float64)
    rows = []
    for drawn in noise:
        at = theta.detach()
        rows.append(at.numpy().copy())
        square = at @ at
        across = drawn - at * (at @ drawn) / square
        theta.grad = across / across.norm() / square.sqrt()
        optimizer.step()
    return toys.dense(rows, rates=rate, groups={"scale_invariant": ("w",)}, optimizer=stated)


@pytest.mark.parametrize("which", [*SGDS, _study("adamw")])
def test_rotation_at_equilibrium_is_the_optimizers_own(which):
    metric = Elr()
    dense = turning_in_noise(which, 0.002, 0.5)
    got = metric.compute(measure(dense, metric.needs(dense.header))).summary
    assert got["equilibrium_ratio"] == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("which", ["adam", "lion"])
def test_no_rotation_is_made_up_where_none_is_known(which):
    metric = Elr()
    dense = turning_in_noise(which, 0.002, 0.5, steps=50)
    got = metric.compute(measure(dense, metric.needs(dense.header))).summary
    assert got["equilibrium_ratio"] is None
    assert got["equilibrium_angle"] is None
    assert got["angular_update_median"] > 0  # the observation holds for any


# --- reports of real trainings --------------------------------------------------------------------

RATES = {"adam": 0.01, "adamw": 0.01, "lion": 0.003}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trainings")

    @cache
    def report(which, net="normalised", decay=0.01, **given):
        path = trainings.train(
            folder / f"{len(list(folder.iterdir()))}.h5",
            which,
            net=getattr(trainings, net),
            rate=RATES.get(which, 0.02),
            decay=decay,
            **{key: dict(value) if key == "stated" else value for key, value in given.items()},
        )
        return trajfile.analyze(path, device="cpu")

    return report


@pytest.mark.parametrize("which", KINDS)
def test_every_report_is_free_of_errors_and_says_what_the_optimizer_changes(which, reports):
    report = reports(which, steps=120)
    assert [name for name, m in report.metrics.items() if m.status == "error"] == []
    sentences = SENTENCES[KINDS[which]]
    for name, result in report.metrics.items():
        if result.status != "skipped":
            known = {text for kind in SENTENCES.values() for text in kind.values()}
            assert [n for n in result.notes if n in known] == (
                [sentences[name]] if name in sentences else []
            )
    threshold = report.metrics["sharpness"].summary["threshold_last"]
    assert (threshold is None) == (which == "lion")


@pytest.mark.parametrize("which", KINDS)
def test_scale_invariant_tensors_are_found_whatever_moves_them(which, reports):
    assert reports(which, steps=120).metrics["elr"].summary["scale_invariant_tensors"] == [
        "first",
        "second",
    ]


@pytest.mark.parametrize("which", KINDS)
def test_update_told_from_snapshots_is_the_one_that_was_made(which, reports):
    """An optimizer of which only displacements are known is judged as if it had told its own."""
    told = reports(which, steps=60, streams=("params", "updates")).metrics["alignment"]
    bare = reports(which, steps=60, streams=("params",)).metrics["alignment"]
    for name in ("inner", "update_norm_squared", "cosine", "gamma"):
        np.testing.assert_allclose(
            bare.series[name].value, told.series[name].value[:-1], rtol=1e-9, atol=1e-12
        )


def test_laws_hold_to_rounding_for_plain_sgd(reports):
    assert reports("sgd", steps=120).metrics["periodicity"].summary["law_residual_median"] < 1e-9
    balance = reports("sgd", net="linear", steps=120).metrics["imbalance"].summary
    assert balance["law_residual"] < 1e-9
    assert balance["law_steps"] > 20


@pytest.mark.parametrize("which", [name for name in KINDS if name != "sgd"])
def test_laws_are_not_held_against_another_optimizer_that_is_named(which, reports):
    periodicity = reports(which, steps=120).metrics["periodicity"]
    assert periodicity.summary["law_residual_median"] is None
    assert [f.id for f in periodicity.findings if f.id == "periodicity.law"] == []
    balance = reports(which, net="linear", steps=120).metrics["imbalance"]
    assert balance.summary["law_residual"] is None
    assert any("plain SGD" in note for note in balance.notes)


@pytest.mark.parametrize("which", [name for name in KINDS if name != "sgd"])
def test_laws_tell_an_optimizer_that_passes_for_plain_sgd(which, reports):
    claimed = (("name", "SGD"), ("momentum", 0.0), ("weight_decay", 0.01))
    periodicity = reports(which, steps=120, stated=claimed).metrics["periodicity"]
    assert periodicity.summary["law_residual_median"] > 0.1
    assert "periodicity.law" in [f.id for f in periodicity.findings]
    balance = reports(which, net="linear", steps=120, stated=claimed).metrics["imbalance"]
    assert balance.summary["law_residual"] > 0.05


def test_run_that_names_no_optimizer_says_how_it_is_read(reports):
    report = reports("momentum", steps=120, stated=())
    assert SENTENCES["unstated"]["elr"] in report.metrics["elr"].notes
    assert "periodicity.law" in [f.id for f in report.findings]
    assert report.metrics["sharpness"].summary["threshold_last"] is None


@pytest.mark.parametrize("which", ["sgd", "momentum", _study("dampened"), _study("nesterov")])
def test_expected_decay_of_the_imbalance_is_how_it_decays_at_the_floor(which, reports):
    found = reports(which, net="linear", decay=0.02, steps=800, streams=("params",))
    balance = found.metrics["imbalance"].summary
    assert balance["decay_rate"] == pytest.approx(balance["decay_rate_expected"], rel=0.05)


# --- the words ------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", KINDS)
def test_kinds(which):
    assert kind_of(header_of(which, 0.1)) == KINDS[which]


def test_decoupled_adam_is_adamw():
    optimizer = {"name": "Adam", "betas": [0.9, 0.99], "decoupled_weight_decay": True}
    assert kind_of(Dense({}, {}, {}, optimizer).header) == "adamw"
    assert kind_of(Dense({}, {}, {}, {}).header) == "unstated"


def test_spec_says_the_same_as_the_reports():
    section = SPEC.split("## What the optimizer changes\n")[1].split("\n## ")[0]
    listed = " ".join(section.split())
    sentences = {text for kind in SENTENCES.values() for text in kind.values()}
    assert [text for text in sentences if text not in listed] == []
    bullets = len(re.findall(r"^\* ", section, re.M))
    assert bullets == len(sentences)
