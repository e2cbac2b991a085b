"""Effective learning rate, effective gradient norm, rotation at equilibrium, regimes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests import toys
from tests.twin import Dense, measure
from trajfile.metrics.base import Skipped
from trajfile.metrics.elr import Elr

INVARIANT = {"scale_invariant": ("w",)}


def run(dense, **options):
    metric = Elr(**options)
    needs = metric.needs(dense.header)
    assert not isinstance(needs, Skipped), needs
    return metric.compute(measure(dense, needs))


def on_sphere(alpha, rate, steps=400, start=0.3, **given):
    thetas, slopes, losses = toys.sphere(alpha, rate, steps, start)
    return toys.dense(thetas, slopes, losses=losses, rates=rate, groups=INVARIANT, **given)


def test_toy_follows_the_angle_recursion():
    angles = toys.sphere_angles(3.0, 0.2, 50)
    thetas, _, _ = toys.sphere(3.0, 0.2, 50)
    np.testing.assert_allclose(np.arctan2(thetas[:, 0], thetas[:, 1]), angles, atol=1e-12)
    got = run(on_sphere(3.0, 0.2, 50))
    np.testing.assert_allclose(
        got.series["angular_update"].value, np.abs(np.diff(angles)), rtol=1e-9, atol=1e-15
    )


def test_two_cycle_has_the_printed_loss_and_effective_gradient_norm():
    # c = 2, α = 3: loss .75, effective gradient norm 2.59808.
    got = run(on_sphere(3.0, 2 / 3), random_loss=1.5)
    assert got.summary["regime"] == "chaotic_equilibrium"
    assert got.series["effective_gradient_norm"].value[-1] == pytest.approx(2.59808, abs=5e-6)
    (finding,) = got.findings
    assert finding.evidence["loss"] == pytest.approx(0.75, abs=1e-12)
    assert finding.evidence["effective_gradient_norm"] == pytest.approx(3 * math.sqrt(0.75))
    assert got.salience == 0.75
    assert "chaotic equilibrium" in got.sentence


@pytest.mark.parametrize(
    ("c", "word"), [(0.5, "convergence"), (0.95, "convergence"), (1.3, "chaotic_equilibrium")]
)
def test_regime_changes_at_c_equal_to_one(c, word):
    assert run(on_sphere(3.0, c / 3), random_loss=1.5).summary["regime"] == word


def test_divergence_when_the_loss_is_at_its_random_level():
    got = run(on_sphere(3.0, 20.0), random_loss=1.5)
    assert got.summary["regime"] == "divergence"
    assert got.findings[0].severity == "warn"
    assert got.salience == 0.95
    assert got.summary["regime_since_step"] is not None


@pytest.mark.parametrize(("part", "converges"), [(0.97, True), (1.03, False)])
def test_threshold_of_several_groups_is_one_over_the_sum_of_alphas(part, converges):
    alphas, steps = (1.0, 3.0), 6000
    thetas, slopes, losses = toys.sphere_groups(alphas, part / sum(alphas), steps)
    arrays = [{f"w{i}": x[:, i] for i in range(2)} for x in (thetas, slopes)]
    at = np.arange(steps + 1)
    dense = Dense(
        {"params": at, "gradients": at},
        {"params": arrays[0], "gradients": arrays[1]},
        {"loss": (at, losses), "learning_rate": (at, np.full(steps + 1, part / sum(alphas)))},
    )
    got = run(dense, random_loss=2.0)
    assert got.summary["scale_invariant_tensors"] == ["w0", "w1"]
    assert (got.summary["regime"] == "convergence") == converges
    # Σ 1/ELR_i = 1/ELR.
    inverse = sum(1 / t.summary["elr"] for t in got.per_tensor.values())
    assert inverse == pytest.approx(1 / got.summary["elr_last"], rel=1e-12)


def test_equilibrium_of_sgd_with_weight_decay():
    rate, decay, size = 0.1, 0.05, 400
    thetas = toys.random_rotation(rate, decay, 400, size)
    dense = toys.dense(
        thetas,
        rates=rate,
        groups=INVARIANT,
        optimizer={"name": "SGD", "weight_decay": decay},
    )
    got = run(dense)
    assert got.summary["equilibrium_angle"] == pytest.approx(math.acos(1 - rate * decay))
    assert got.summary["equilibrium_ratio"] == pytest.approx(1, abs=0.01)
    # ρ⁴ = η g̃²/(λ(2-ηλ)) with g̃ = 1.
    expected = math.sqrt(rate / (decay * (2 - rate * decay)))
    assert got.summary["rho_squared_last"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "SGD", "momentum": 0.9},
        {"name": "AdamW", "betas": [0.0, 0.999]},
        {"name": "AdamW", "betas": [0.9, 0.999]},
    ],
)
def test_equilibrium_rotation_of_momentum_and_adamw(optimizer):
    rate, decay = 0.002, 0.5
    momentum = optimizer.get("momentum") or optimizer["betas"][0]
    adam = optimizer["name"] == "AdamW"
    thetas = toys.random_rotation(rate, decay, 3000, 300, momentum=momentum, adam=adam)
    got = run(
        toys.dense(
            thetas, rates=rate, groups=INVARIANT, optimizer=optimizer | {"weight_decay": decay}
        )
    )
    if adam and momentum == 0:
        assert got.summary["equilibrium_angle"] == pytest.approx(math.sqrt(2 * rate * decay))
    assert got.summary["equilibrium_ratio"] == pytest.approx(1, abs=0.05)


def random_dense(rows=30, seed=0):
    """Three tensors, two of them with gradients at right angles to them."""
    normal = np.random.default_rng(seed).normal
    shapes = {"a": (3, 4), "b": (5,), "c": (2, 2)}
    params = {n: normal(size=(rows, *shape)) for n, shape in shapes.items()}
    gradients = {n: normal(size=(rows, *shape)) for n, shape in shapes.items()}
    for name in ("a", "c"):
        for p, g in zip(params[name], gradients[name], strict=True):
            g -= p * (p * g).sum() / (p * p).sum()
    at = np.arange(rows)
    return Dense(
        {"params": at, "gradients": at},
        {"params": params, "gradients": gradients},
        {"learning_rate": (at, np.linspace(0.1, 0.2, rows)), "loss": (at, normal(size=rows) ** 2)},
    )


def test_against_whole_vectors_on_random_data():
    dense = random_dense()
    got = run(dense)
    assert got.summary["scale_invariant_tensors"] == ["a", "c"]
    whole = {
        s: np.concatenate([dense.arrays[s][n].reshape(30, -1) for n in ("a", "c")], axis=1)
        for s in ("params", "gradients")
    }
    radius = np.linalg.norm(whole["params"], axis=1)
    rate = dense.scalars["learning_rate"][1]
    unit = whole["params"] / radius[:, None]
    np.testing.assert_allclose(got.series["rho_squared"].value, radius**2, rtol=1e-12)
    np.testing.assert_allclose(got.series["elr"].value, rate / radius**2, rtol=1e-12)
    np.testing.assert_allclose(
        got.series["effective_gradient_norm"].value,
        radius * np.linalg.norm(whole["gradients"], axis=1),
        rtol=1e-12,
    )
    np.testing.assert_allclose(
        got.series["angular_update"].value,
        np.arccos((unit[1:] * unit[:-1]).sum(axis=1)),
        rtol=1e-9,
    )


def test_tiny_turns_in_float32_keep_their_digits():
    normal = np.random.default_rng(1).normal
    first = normal(size=2000).astype(np.float32)
    second = (first * (1 + np.float32(1e-6) * normal(size=2000).astype(np.float32))).astype(
        np.float32
    )
    dense = Dense({"params": np.arange(2)}, {"params": {"w": np.stack([first, second])}}, {})
    dense.groups = INVARIANT
    a, b = first.astype(np.float64), second.astype(np.float64)
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    expected = 2 * np.arcsin(np.linalg.norm(a - b) / 2)
    got = run(dense).series["angular_update"].value[0]
    assert got == pytest.approx(expected, rel=1e-8)


def test_a_wrongly_declared_tensor_is_reported():
    dense = random_dense()
    dense.groups = {"scale_invariant": ("a", "b")}
    got = run(dense)
    assert got.summary["scale_invariant_tensors"] == ["a", "b"]
    (finding,) = [f for f in got.findings if f.id == "elr.not_scale_invariant"]
    assert finding.severity == "warn"
    assert finding.evidence["tensors"] == ["b"]


def test_gradients_that_include_weight_decay_are_not_taken_for_scale_invariant():
    dense = random_dense()
    for name in ("a", "c"):
        dense.arrays["gradients"][name] += 0.1 * dense.arrays["params"][name]
    got = run(dense)
    assert got.status == "skipped"
    assert got.summary["scale_invariant_tensors"] == []
    assert "No tensor is scale-invariant" in got.reason


def test_standing_still_at_the_random_level_is_not_divergence():
    thetas = np.tile([1.0, 2.0], (60, 1))
    dense = toys.dense(
        thetas, 0 * thetas + [2.0, -1.0], losses=np.full(60, 2.3), rates=0.0, groups=INVARIANT
    )
    assert run(dense).summary["regime"] == "undetermined"


def test_a_late_start_does_not_know_the_random_level():
    dense = on_sphere(3.0, 2 / 3, 100)
    dense.steps = {s: at + 5000 for s, at in dense.steps.items()}
    dense.scalars = {n: (at + 5000, v) for n, (at, v) in dense.scalars.items()}
    got = run(dense)
    assert got.summary["regime"] == "undetermined"
    assert "starts too late" in got.summary["regime_reason"]
    assert run(dense, random_loss=1.5).summary["regime"] == "chaotic_equilibrium"


def test_one_odd_sample_does_not_change_the_word():
    dense = on_sphere(3.0, 0.95 / 3)
    at, losses = dense.scalars["loss"]
    losses = losses.copy()
    losses[-3] = 50.0
    dense.scalars["loss"] = (at, losses)
    assert run(dense, random_loss=1.5).summary["regime"] == "convergence"


def test_cadences_differ_and_a_loss_is_missing():
    dense = on_sphere(3.0, 2 / 3, 300)
    dense.steps["gradients"] = dense.steps["gradients"][::3]
    dense.arrays["gradients"]["w"] = dense.arrays["gradients"]["w"][::3]
    at, losses = dense.scalars["loss"]
    losses = losses.copy()
    losses[6] = np.nan
    dense.scalars["loss"] = (at, losses)
    got = run(dense, random_loss=1.5)
    assert got.series["effective_gradient_norm"].step == list(range(0, 301, 3))
    assert len(got.series["rho_squared"].step) == 301
    assert got.summary["regime"] == "chaotic_equilibrium"


def test_sparse_snapshots_give_no_equilibrium_ratio_but_say_why():
    thetas = toys.random_rotation(0.1, 0.05, 100, 20)
    dense = toys.dense(
        thetas[::5],
        steps=np.arange(0, 100, 5),
        rates=0.1,
        groups=INVARIANT,
        optimizer={"name": "SGD", "weight_decay": 0.05},
    )
    got = run(dense)
    assert got.summary["equilibrium_ratio"] is None
    assert any("stride" in note for note in got.notes)


def test_parameters_that_end_in_nan_are_undetermined():
    dense = on_sphere(3.0, 2 / 3, 100)
    for stream in ("params", "gradients"):
        dense.arrays[stream]["w"][80:] = np.nan
    got = run(dense, random_loss=1.5)
    assert got.summary["regime"] == "undetermined"
    assert "not finite" in got.summary["regime_reason"]
    assert got.series["rho_squared"].value[80] is None
    assert got.summary["elr_last"] is not None


@pytest.mark.parametrize("rows", [1, 2])
def test_very_short_runs(rows):
    thetas, slopes, losses = toys.sphere(3.0, 0.1, rows - 1)
    got = run(toys.dense(thetas, slopes, losses=losses, rates=0.1, groups=INVARIANT))
    assert got.status == "ok"
    assert got.summary["regime"] == "undetermined"
    assert len(got.series["angular_update"].step) == rows - 1


def test_without_learning_rate_there_is_no_elr():
    thetas, slopes, _ = toys.sphere(3.0, 0.1, 30)
    got = run(toys.dense(thetas, slopes, groups=INVARIANT))
    assert got.summary["elr_last"] is None
    assert set(got.series["elr"].value) == {None}
    assert got.summary["regime_reason"] == "the loss was not recorded"


def test_scaled_gradients_are_refused():
    got = run(on_sphere(3.0, 0.1, 60, gradient={"stage": "scaled"}), random_loss=1.5)
    assert got.series["effective_gradient_norm"].value == []
    assert any("loss scale" in note for note in got.notes)


def test_needs_are_skipped_with_a_remedy():
    assert isinstance(Elr().needs(Dense({}, {}).header), Skipped)
    thetas, _, _ = toys.sphere(3.0, 0.1, 3)
    skipped = Elr().needs(toys.dense(thetas).header)
    assert isinstance(skipped, Skipped)
    assert "declare groups" in skipped.reason


def test_every_contract_name_is_present_in_every_result():
    dense = random_dense()
    for name in ("a", "c"):
        dense.arrays["gradients"][name] += dense.arrays["params"][name]
    for got in (run(random_dense()), run(dense)):
        assert set(got.series) == {
            "rho_squared", "elr", "effective_gradient_norm", "angular_update",
        }  # fmt: skip
        assert {
            "scale_invariant_tensors", "elr_first", "elr_last", "regime", "regime_since_step",
            "equilibrium_ratio",
        } <= set(got.summary)  # fmt: skip


def test_without_per_tensor_values_all_tensors_still_work():
    dense = on_sphere(3.0, 2 / 3)
    measured = measure(dense, Elr().needs(dense.header))
    bare = {pair: type(band)(band.lags, band.total) for pair, band in measured.bands.items()}
    measured = type(measured)(measured.header, bare, per_tensor_kept=False)
    got = Elr(random_loss=1.5).compute(measured)
    assert got.summary["regime"] == "chaotic_equilibrium"
    assert got.per_tensor == {}


@pytest.mark.parametrize("cause", ["no gradients", "not of all", "memory"])
def test_why_there_is_no_effective_gradient_norm(cause):
    dense = on_sphere(3.0, 2 / 3)
    slopes = dense.arrays["gradients"]
    if cause == "no gradients":
        del dense.arrays["gradients"], dense.steps["gradients"]
    else:
        slopes["other"] = slopes["w"].copy()
    if cause == "not of all":
        del slopes["w"]
    measured = measure(dense, Elr().needs(dense.header))
    if cause == "memory":
        bare = {pair: type(band)(band.lags, band.total) for pair, band in measured.bands.items()}
        measured = type(measured)(measured.header, bare, per_tensor_kept=False)
    got = Elr().compute(measured)
    assert got.series["effective_gradient_norm"].value == []
    said = {
        "no gradients": "No gradients are recorded, so",
        "not of all": "Not every scale-invariant tensor has gradients (w: none), so",
        "memory": "The memory budget left no room for per-tensor values, so",
    }
    assert [n for n in got.notes if "no effective" in n] == [
        f"{said[cause]} there is no effective gradient norm."
    ]


def noisy_sphere(losses, every):
    """A walk on the sphere with unrelated gradients and given losses at every step."""
    rng = np.random.default_rng(0)
    n = len(losses)
    thetas = rng.normal(size=(n, 6))
    thetas /= np.linalg.norm(thetas, axis=1, keepdims=True)
    slopes = rng.normal(size=(n, 6))
    slopes -= np.sum(slopes * thetas, axis=1, keepdims=True) * thetas
    slopes /= np.linalg.norm(slopes, axis=1, keepdims=True)
    dense = toys.dense(thetas[::every], slopes[::every], losses=losses, rates=1.0, groups=INVARIANT)
    dense.steps = {stream: np.arange(0, n, every) for stream in dense.steps}
    dense.scalars["loss"] = (np.arange(n), losses)
    dense.scalars["learning_rate"] = (np.arange(n), np.ones(n))
    return dense


def test_the_random_level_comes_from_every_recorded_loss_not_only_those_of_snapshots():
    # The loss halves before the second snapshot; from snapshots alone its start would be 1.
    losses = np.where(np.arange(2000) < 10, 2.0, 1.0)
    regime = next(f for f in run(noisy_sphere(losses, 20)).findings if f.id == "elr.regime")
    assert regime.evidence["random_loss"] == 2.0
    assert run(noisy_sphere(losses, 20)).summary["regime"] == "chaotic_equilibrium"


def test_a_loss_that_still_falls_is_no_equilibrium():
    losses = np.where(np.arange(2000) < 10, 2.0, np.exp(-0.00022 * np.arange(2000)))
    assert run(noisy_sphere(losses, 20)).summary["regime"] == "undetermined"
