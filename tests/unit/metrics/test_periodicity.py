"""Jumps, periods and the exact law, on toys that jump, that do not, and that hide it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests import toys
from tests.twin import Dense, measure
from trajfile.metrics.base import Skipped
from trajfile.metrics.periodicity import Periodicity

INVARIANT = {"scale_invariant": ("w",)}


def sgd(decay, **more):
    return {"name": "SGD", "weight_decay": decay, "momentum": 0.0} | more


def run(dense, **options):
    metric = Periodicity(**options)
    return metric.compute(measure(dense, metric.needs(dense.header)))


def run_long(thetas, slopes, rate, decay, steps=None, **options):
    """As `run`, for one tensor of many rows: its measurements by whole-array NumPy."""
    dense = toys.dense(
        thetas, slopes, steps=steps, rates=rate, groups=INVARIANT, optimizer=sgd(decay)
    )
    metric = Periodicity(**options)
    return metric.compute(toys.measure_long(dense, metric.needs(dense.header), thetas, slopes))


@pytest.fixture(scope="module")
def jumping():
    """η = .1, λ = .05, noise 1e-6, 60 000 steps: the printed toy."""
    return toys.decaying_circle(0.1, 0.05, 60_000)


def test_the_printed_toy_jumps_about_38_times(jumping):
    thetas, slopes, angles = jumping
    got = run_long(thetas, slopes, 0.1, 0.05)
    rows = np.flatnonzero(1 - np.cos(np.diff(angles)) > 0.1)
    starts = rows[np.diff(rows, prepend=-100) > 10]
    assert got.summary["jump_steps"] == starts.tolist()
    # How often it jumps in 60 000 steps depends on the noise's draws; with these it is 38.
    assert got.summary["jumps"] == 38
    assert got.summary["periodic"] is True
    assert got.summary["delta"] == 0.1
    lengths = np.diff(starts)
    assert got.summary["period_mean"] == pytest.approx(lengths.mean())
    assert got.summary["period_cv"] == pytest.approx(lengths.std() / lengths.mean())
    assert got.salience == 0.9
    assert "38 jumps" in got.sentence
    assert [f.severity for f in got.findings] == ["warn"]


def test_the_law_holds_to_rounding(jumping):
    thetas, slopes, _ = jumping
    got = run_long(thetas, slopes, 0.1, 0.05)
    assert got.summary["law_residual_median"] < 1e-12
    assert got.summary["angle_law_residual_median"] < 1e-3  # turns of 1e-7, in snapshots of 1e-16
    # From its longest to its shortest the norm decays nearly as if there were no gradient.
    assert got.summary["free_decay_ratio_median"] == pytest.approx(1, abs=0.05)
    free, elr = got.summary["period_free_decay"], np.log(got.summary["period_elr_max"])
    climb = elr - np.log(got.summary["period_elr_min"])
    np.testing.assert_allclose(free, climb / (-2 * math.log(1 - 0.1 * 0.05)), rtol=1e-9)
    assert max(free) < 80


def test_the_negative_control_does_not_jump():
    thetas, slopes, _ = toys.decaying_circle(0.1, 0.01, 60_000)
    got = run_long(thetas, slopes, 0.1, 0.01)
    assert got.summary["jumps"] == 0
    assert got.summary["periodic"] is False
    assert got.sentence is None
    assert got.findings == []
    assert got.summary["law_residual_median"] < 1e-12


def test_sparse_snapshots_show_the_jumps_by_the_norm(jumping):
    thetas, slopes, _ = jumping
    window = slice(0, 2000)
    dense_found = run_long(thetas[window], slopes[window], 0.1, 0.05).summary
    steps = np.arange(0, 2000, 7)
    got = run_long(thetas[steps], slopes[steps], 0.1, 0.05, steps=steps)
    assert got.summary["method"] == "norm"
    assert got.summary["periodic"] is True
    # Each δ-jump is seen, a snapshot or two off; so are jumps whose largest step is just below δ.
    at = np.array(got.summary["jump_steps"])
    assert all(np.abs(at - step).min() <= 14 for step in dense_found["jump_steps"])
    low = run_long(thetas[window], slopes[window], 0.1, 0.05, delta=0.05).summary
    assert got.summary["jumps"] == low["jumps"]
    assert any("7 steps apart" in note for note in got.notes)
    assert got.summary["law_residual_median"] is None


def test_bursts_of_adjacent_snapshots_still_use_the_norm_but_check_the_law(jumping):
    thetas, slopes, _ = jumping
    steps = np.sort(np.concatenate([np.arange(0, 2000, 8), np.arange(1, 2000, 8)]))
    got = run_long(thetas[steps], slopes[steps], 0.1, 0.05, steps=steps)
    assert got.summary["method"] == "norm"
    assert got.summary["periodic"] is True
    assert got.summary["law_residual_median"] < 1e-12


def test_snapshots_too_far_apart_leave_it_undetermined():
    thetas = np.linspace(1, 1.1, 40)[:, None] * np.array([[3.0, 4.0]])
    steps = np.arange(40) * 200
    far = toys.dense(thetas, steps=steps, rates=0.1, groups=INVARIANT, optimizer=sgd(0.05))
    assert run(far).summary["periodic"] is None  # ηλ·200 = 1: a whole cycle fits in between
    near = toys.dense(thetas, steps=steps, rates=0.1, groups=INVARIANT, optimizer=sgd(0.001))
    assert run(near).summary["periodic"] is False
    held = toys.dense(thetas * 0 + 1, steps=steps, rates=0.1, groups=INVARIANT)
    assert run(held).summary["periodic"] is None  # a norm held constant shows nothing
    few = toys.dense(thetas[:9], steps=steps[:9], rates=0.1, groups=INVARIANT)
    assert run(few).summary["periodic"] is None


@pytest.mark.parametrize(
    ("rates", "optimizer", "groups", "periodic", "why"),
    [
        (None, sgd(0.001), INVARIANT, None, "learning rate is unknown"),
        ([0.1] * 20 + [np.nan] * 20, sgd(0.001), INVARIANT, None, "learning rate is unknown"),
        (0.1, None, INVARIANT, None, "weight decay is not stated"),
        (None, None, INVARIANT, None, "weight decay is not stated"),
        (None, sgd(0.0), INVARIANT, False, None),
        (0.1, sgd(0.001), INVARIANT, False, None),
        (0.1, sgd(0.001), {}, None, "scale-invariant tensors alone"),
    ],
)
def test_sparse_snapshots_need_the_decay_to_exclude_jumps(rates, optimizer, groups, periodic, why):
    thetas = np.linspace(1, 1.1, 40)[:, None] * np.array([[3.0, 4.0]])
    sparse = toys.dense(
        thetas, steps=np.arange(40) * 200, rates=rates, groups=groups, optimizer=optimizer
    )
    got = run(sparse)
    assert got.summary["periodic"] is periodic
    said = [note for note in got.notes if "undetermined" in note]
    assert (why in said[0]) if why else not said
    # At every step, each jump shows by itself, whatever the decay.
    every = toys.dense(thetas, rates=rates, groups=groups, optimizer=optimizer)
    assert run(every).summary["periodic"] is False


def test_constant_turning_is_not_periodic():
    angles = np.arange(200) * 1.0
    thetas = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    got = run(toys.dense(thetas, rates=0.1, groups=INVARIANT))
    assert got.summary["periodic"] is False
    assert "turns by more than" in got.findings[0].message


def turned(turns, rows=100, decay=0.01):
    """A norm that shrinks, with right-angled kicks at some rows."""
    theta, thetas = np.array([1.0, 0.0]), []
    for row in range(rows):
        thetas.append(theta)
        theta = theta * (1 - decay)
        if row in turns:
            theta = theta + np.array([-theta[1], theta[0]])
    return np.array(thetas)


def test_two_jumps_are_undetermined_and_three_are_periodic():
    two = run(toys.dense(turned([30, 60]), rates=0.1, groups=INVARIANT))
    assert two.summary["jump_steps"] == [30, 60]
    assert two.summary["periodic"] is None
    assert two.summary["periods"] == [30]
    assert two.summary["period_mean"] is None  # one period says nothing of its spread
    assert two.summary["period_cv"] is None
    assert "undetermined" in two.sentence
    three = run(toys.dense(turned([30, 60, 90]), rates=0.1, groups=INVARIANT))
    assert three.summary["periodic"] is True
    assert three.summary["period_cv"] == 0
    assert three.per_tensor["w"].summary["jumps"] == 3
    assert three.per_tensor["w"].summary["jump_steps"] == [30, 60, 90]


@pytest.mark.parametrize("fewest", [1, 2])
def test_no_option_makes_one_period_a_rhythm(fewest):
    for turns in ([30], [30, 60]):
        got = run(toys.dense(turned(turns), rates=0.1, groups=INVARIANT), fewest_jumps=fewest)
        assert got.summary["periodic"] is None
        assert "undetermined" in got.sentence


def test_jumps_without_decline_in_between_are_undetermined():
    got = run(toys.dense(turned([30, 60, 90], decay=0.0), rates=0.1, groups=INVARIANT))
    assert got.summary["jumps"] == 3
    assert got.summary["periodic"] is None


def test_jumps_of_tensors_not_known_to_be_scale_invariant_are_told_with_restraint():
    two = run(toys.dense(turned([30, 60]), rates=0.1))
    assert (two.summary["jumps"], two.findings, two.sentence) == (2, [], None)
    three = run(toys.dense(turned([30, 60, 90]), rates=0.1))
    assert three.summary["periodic"] is True
    assert three.salience < 0.9
    assert [f.severity for f in three.findings] == ["info"]
    assert "All weights together" in three.sentence


def test_jumps_close_together_are_one():
    thetas = turned([30, 33, 38, 60])
    assert run(toys.dense(thetas, groups=INVARIANT)).summary["jump_steps"] == [30, 60]
    assert run(toys.dense(thetas, groups=INVARIANT), refractory=1).summary["jump_steps"] == [
        30, 33, 38, 60,
    ]  # fmt: skip


def test_growth_from_initialisation_is_no_jump():
    norms = np.concatenate([np.linspace(1, 3, 30), np.full(30, 3.0)])
    thetas = norms[:, None] * np.array([[0.6, 0.8]])
    got = run(toys.dense(thetas, steps=np.arange(60) * 100, groups=INVARIANT))
    assert got.summary["method"] == "norm"
    assert got.summary["jumps"] == 0


def test_against_whole_vectors():
    normal = np.random.default_rng(4).normal
    thetas = {
        n: np.cumsum(normal(size=(40, *s)), axis=0) for n, s in {"a": (3, 2), "b": (4,)}.items()
    }
    dense = Dense({"params": np.arange(40)}, {"params": thetas}, groups={"scale_invariant": ("a",)})
    a = thetas["a"].reshape(40, -1)
    a = a / np.linalg.norm(a, axis=1)[:, None]
    got = run(dense)
    np.testing.assert_allclose(
        got.series["cosine_distance"].value, 1 - (a[1:] * a[:-1]).sum(axis=1), atol=1e-12
    )
    dense.groups = {}
    whole = np.concatenate([x.reshape(40, -1) for x in thetas.values()], axis=1)
    whole = whole / np.linalg.norm(whole, axis=1)[:, None]
    got = run(dense)
    np.testing.assert_allclose(
        got.series["cosine_distance"].value, 1 - (whole[1:] * whole[:-1]).sum(axis=1), atol=1e-12
    )
    assert any("over all tensors" in note for note in got.notes)


def test_tiny_angles_keep_their_digits():
    angles = np.array([0.0, 1e-7, 3e-7])
    thetas = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    got = run(toys.dense(thetas, groups=INVARIANT)).series["cosine_distance"].value
    np.testing.assert_allclose(got, [5e-15, 2e-14], rtol=1e-8)


def test_a_law_that_is_broken_is_reported():
    thetas, slopes, _ = toys.decaying_circle(0.1, 0.05, 200)
    dense = toys.dense(
        thetas * np.linspace(1, 3, 200)[:, None], slopes, rates=0.1, groups=INVARIANT,
        optimizer=sgd(0.05),
    )  # fmt: skip
    got = run(dense)
    assert got.summary["law_residual_median"] > 0.1
    assert "periodicity.law" in [f.id for f in got.findings]


@pytest.mark.parametrize(
    "optimizer",
    [sgd(0.05, momentum=0.9), {"name": "AdamW", "weight_decay": 0.05, "betas": [0.9, 0.999]}],
)
def test_the_law_is_not_applied_to_other_optimizers(optimizer):
    thetas, slopes, _ = toys.decaying_circle(0.1, 0.05, 200)
    got = run(toys.dense(thetas, slopes, rates=0.1, groups=INVARIANT, optimizer=optimizer))
    assert got.summary["law_residual_median"] is None
    assert any("plain SGD" in note for note in got.notes)


def test_the_law_follows_a_schedule():
    thetas, slopes = [np.array([0.6, 0.8])], []
    rates = np.linspace(0.2, 0.05, 50)
    for rate in rates:
        slopes.append(toys.sphere_gradient(1.0, thetas[-1]))
        thetas.append(thetas[-1] * (1 - rate * 0.1) - rate * slopes[-1])
    dense = toys.dense(
        np.array(thetas[:-1]), np.array(slopes), rates=rates, groups=INVARIANT, optimizer=sgd(0.1)
    )
    assert run(dense).summary["law_residual_median"] < 1e-12


def test_weights_held_on_a_sphere_have_no_law():
    thetas, slopes, _ = toys.sphere(1.0, 0.1, 100)
    got = run(toys.dense(thetas, slopes, rates=0.1, groups=INVARIANT, optimizer=sgd(0.05)))
    assert got.summary["law_residual_median"] is None


def test_parameters_that_end_in_nan():
    thetas = turned([30, 60, 80])
    thetas[90:] = np.nan
    got = run(toys.dense(thetas, rates=0.1, groups=INVARIANT))
    assert got.status == "ok"
    assert got.series["cosine_distance"].value[-1] is None
    assert got.summary["jumps"] == 3
    assert run(toys.dense(thetas * np.nan, groups=INVARIANT)).status == "insufficient"


@pytest.mark.parametrize("rows", [1, 2])
def test_very_short_runs(rows):
    got = run(toys.dense(turned([], rows), groups=INVARIANT))
    assert got.status == ("insufficient" if rows == 1 else "ok")
    assert got.summary["periodic"] is None
    assert set(got.series) == {"cosine_distance"}
    assert {
        "periodic", "jump_steps", "period_mean", "period_cv", "delta", "law_residual_median",
    } <= set(got.summary)  # fmt: skip


def test_no_params_is_skipped():
    assert isinstance(Periodicity().needs(Dense({}, {}).header), Skipped)
