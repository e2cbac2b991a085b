"""The regularity principle against closed forms and whole vectors."""

from __future__ import annotations

import numpy as np
import pytest

from tests import toys
from tests.twin import Dense, measure
from trajfile.metrics.alignment import Alignment
from trajfile.metrics.base import Skipped


def run(dense, **options):
    metric = Alignment(**options)
    needs = metric.needs(dense.header)
    assert not isinstance(needs, Skipped), needs
    return metric.compute(measure(dense, needs))


def with_optimum(c, rate, steps):
    """Descent on (c/2)||θ||² with recorded updates, and its optimum θ* = 0 as a late snapshot."""
    thetas, slopes, losses = toys.quadratic(c, rate, steps, start=(1.0, -2.0))
    at = np.arange(steps)
    return Dense(
        {"params": np.append(at, 1000), "updates": at},
        {
            "params": {"w": np.concatenate([thetas[:-1], np.zeros((1, 2))])},
            "updates": {"w": slopes[:-1]},
        },
        {"loss": (at, losses[:-1]), "learning_rate": (at, np.full(steps, rate))},
    )


@pytest.mark.parametrize("c", [0.5, 1.0, 3.0])
def test_gamma_of_a_quadratic_about_its_optimum(c):
    # γ_k = 2/(1+c) for every k; c = .5 gives 1.333333.
    got = run(with_optimum(c, 0.3, 30))
    np.testing.assert_allclose(got.series["gamma"].value, 2 / (1 + c), rtol=1e-12)
    assert got.summary["gamma_trajectory"] == pytest.approx(2 / (1 + c))
    assert got.summary["gamma_aggregate"] == pytest.approx(2 / (1 + c))
    assert got.summary["reference_step"] == 1000
    if c == 0.5:
        assert round(got.summary["gamma_trajectory"], 6) == 1.333333
    assert got.summary["cosine_mean"] == pytest.approx(1)
    assert got.summary["violated_fraction"] == 0
    assert got.summary["verdict"] == "aligned"


def test_gamma_about_the_last_iterate_and_the_tail_rule():
    # γ_k = 2(1-q^{K-k})/(1+c), q = 1-ηc; c = .5, η = .8, K = 10: 1.325271 ... .533333.
    thetas, _, losses = toys.quadratic(0.5, 0.8, 10)
    got = run(toys.dense(thetas, losses=losses, rates=0.8))
    q = 1 - 0.8 * 0.5
    expected = [2 * (1 - q ** (10 - k)) / 1.5 for k in range(10)]
    np.testing.assert_allclose(got.series["gamma"].value, expected, rtol=1e-12)
    assert round(got.series["gamma"].value[0], 6) == 1.325271
    assert round(got.series["gamma"].value[9], 6) == 0.533333
    # Of ten update rows the one with index 9 ≥ floor(9.5) is left out of gamma_trajectory.
    assert got.summary["gamma_trajectory"] == pytest.approx(expected[8])
    assert run(toys.dense(thetas, losses=losses, rates=0.8), tail=1.0).summary[
        "gamma_trajectory"
    ] == pytest.approx(expected[9])
    a, below = (np.array(got.series[n].value) for n in ("inner", "update_norm_squared"))
    gap = np.array(got.series["loss_gap"].value)
    assert got.summary["gamma_aggregate"] == pytest.approx(a.sum() / (below / 2 + gap).sum())
    assert any("last snapshot" in note for note in got.notes)
    assert any("not recorded; U_k is" in note for note in got.notes)


def test_bound_is_reported_where_it_applies():
    got = run(with_optimum(0.5, 0.3, 30))
    gap = np.array(got.series["loss_gap"].value)[:28]  # floor(.95·30)
    assert got.summary["bound_left"] == pytest.approx(gap.sum())
    assert got.summary["bound_right"] == pytest.approx(5.0 / (2 * 0.3 * 4 / 3))
    assert got.summary["bound_holds"] is True
    # η > γ: no promise.
    steep = run(with_optimum(3.0, 0.6, 30))
    assert steep.summary["bound_holds"] is None
    # A schedule: no promise either.
    dense = with_optimum(0.5, 0.3, 30)
    dense.scalars["learning_rate"] = (np.arange(30), np.linspace(0.3, 0.2, 30))
    assert run(dense).summary["bound_holds"] is None


def test_updates_that_are_not_the_run_s_break_the_bound():
    dense = with_optimum(0.5, 0.3, 30)
    dense.arrays["params"]["w"][1:30] = dense.arrays["params"]["w"][0]
    dense.scalars["loss"] = (np.arange(30), np.full(30, 0.1))
    dense.arrays["updates"]["w"][:] = 0.2 * dense.arrays["params"]["w"][:1]
    got = run(dense)
    assert got.summary["bound_holds"] is False
    assert "alignment.bound" in [f.id for f in got.findings]


def random_dense(rows=25, recorded=True, seed=5):
    normal = np.random.default_rng(seed).normal
    at = np.arange(rows)
    arrays = {s: {"a": normal(size=(rows, 3, 2)), "b": normal(size=(rows, 5))} for s in "pu"}
    arrays = {"params": arrays["p"]} | ({"updates": arrays["u"]} if recorded else {})
    return Dense(
        dict.fromkeys(arrays, at),
        arrays,
        {"loss": (at, normal(size=rows) ** 2), "learning_rate": (at, np.linspace(0.1, 0.3, rows))},
    )


def whole(dense, stream):
    return np.concatenate([x.reshape(len(x), -1) for x in dense.arrays[stream].values()], axis=1)


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("reference", [None, 7])
def test_against_whole_vectors(recorded, reference):
    dense = random_dense(recorded=recorded)
    got = run(dense, reference_step=reference)
    theta = whole(dense, "params")
    star = theta[-1 if reference is None else reference]
    rate, loss = dense.scalars["learning_rate"][1], dense.scalars["loss"][1]
    update = whole(dense, "updates") if recorded else -np.diff(theta, axis=0) / rate[:-1, None]
    count = len(update)
    offset = theta[:count] - star
    a, b = (offset * update).sum(axis=1), (update * update).sum(axis=1)
    at_star = np.arange(count) == (24 if reference is None else reference)
    gamma = np.where(at_star, np.nan, a / (b / 2 + loss[:count]))
    for name, expected in {
        "inner": a,
        "update_norm_squared": b,
        "loss_gap": loss[:count],
        "distance_squared": (offset**2).sum(axis=1),
    }.items():
        np.testing.assert_allclose(got.series[name].value, expected, rtol=1e-9, atol=1e-12)
    cos = np.where(at_star, np.nan, a / np.sqrt(np.maximum(b * (offset**2).sum(axis=1), 1e-300)))
    for name, expected in {"gamma": gamma, "cosine": cos}.items():
        value = np.array(got.series[name].value, np.float64)
        np.testing.assert_allclose(value, expected, rtol=1e-9)
    kept = gamma[: int(0.95 * count)] if reference is None else gamma
    assert got.summary["gamma_trajectory"] == pytest.approx(np.nanmin(kept))
    assert got.summary["cosine_mean"] == pytest.approx(np.nanmean(cos))
    assert got.summary["violated_fraction"] == pytest.approx(np.mean(a[~at_star] <= 0))
    shares = [t.summary["gamma_share"] for t in got.per_tensor.values()]
    assert sum(shares) == pytest.approx(got.summary["gamma_aggregate"])


def test_cosine_near_the_reference_in_float32_keeps_its_digits():
    normal = np.random.default_rng(2).normal
    star = normal(size=3000).astype(np.float32)
    near = star * (1 + np.float32(1e-6) * normal(size=3000).astype(np.float32))
    update = normal(size=3000).astype(np.float32)
    dense = Dense(
        {"params": np.arange(2), "updates": np.arange(1)},
        {"params": {"w": np.stack([near, star])}, "updates": {"w": update[None]}},
    )
    offset, u = near.astype(np.float64) - star, update.astype(np.float64)
    expected = offset @ u / np.linalg.norm(offset) / np.linalg.norm(u)
    assert run(dense).series["cosine"].value[0] == pytest.approx(expected, abs=1e-12)


def test_without_loss_gamma_is_undefined_and_its_bound_is_labelled():
    thetas, _, _ = toys.quadratic(0.5, 0.8, 30)
    got = run(toys.dense(thetas, rates=0.8))
    assert got.summary["gamma_trajectory"] is got.summary["gamma_aggregate"] is None
    assert set(got.series["gamma"].value) == {None}
    a, b = (np.array(got.series[n].value) for n in ("inner", "update_norm_squared"))
    assert got.summary["gamma_upper_bound"] == pytest.approx(a.sum() / (b / 2).sum())
    assert got.summary["violated_fraction"] == 0
    assert any("gamma_upper_bound" in note for note in got.notes)


def test_without_learning_rate_only_directions_remain():
    thetas, _, losses = toys.quadratic(0.5, 0.8, 30)
    got = run(toys.dense(thetas, losses=losses))
    assert set(got.series["inner"].value) == {None}
    assert got.summary["gamma_upper_bound"] is None
    assert got.summary["cosine_mean"] == pytest.approx(1)
    assert got.summary["verdict"] == "aligned"
    assert any("only directions" in note for note in got.notes)


def test_strided_snapshots_give_a_flagged_mean_update():
    thetas, _, losses = toys.quadratic(0.5, 0.1, 40)
    dense = toys.dense(thetas[::4], steps=np.arange(0, 41, 4), losses=losses[::4], rates=0.1)
    got = run(dense)
    mean_update = (thetas[0] - thetas[4]) / (4 * 0.1)
    assert got.series["update_norm_squared"].value[0] == pytest.approx(mean_update @ mean_update)
    assert any("4 steps apart" in note for note in got.notes)
    assert got.summary["bound_holds"] is None


def test_updates_of_another_cadence_meet_the_snapshots_on_common_steps():
    dense = random_dense()
    dense.steps["updates"] = np.arange(0, 50, 2)
    got = run(dense)
    assert got.series["inner"].step == list(range(0, 25, 2))


def test_misaligned_updates_are_called_so():
    dense = random_dense(rows=60)
    del dense.scalars["learning_rate"]  # by which it would show that they are not the run's
    got = run(dense)
    assert got.summary["verdict"] == "misaligned"
    assert got.salience == 0.7
    (finding,) = [f for f in got.findings if f.id == "alignment.verdict"]
    assert finding.severity == "warn"
    assert len(finding.evidence["violated_fraction_by_tenth"]) == 10
    assert "misaligned" in got.sentence


def test_a_loss_below_its_infimum_is_reported_and_not_used():
    thetas, _, losses = toys.quadratic(0.5, 0.8, 30)
    dense = toys.dense(thetas, losses=losses - 0.1, rates=0.8)
    got = run(dense)
    assert "alignment.loss_below_infimum" in [f.id for f in got.findings]
    proper = run(dense, loss_infimum=-0.1)
    assert proper.findings[0].id == "alignment.verdict"
    assert proper.series["gamma"].value[0] == pytest.approx(4 / 3, abs=1e-6)


def test_a_last_snapshot_that_is_not_finite():
    thetas, _, losses = toys.quadratic(0.5, 0.8, 30)
    thetas[25:] = np.nan
    dense = toys.dense(thetas, losses=losses, rates=0.8)
    got = run(dense)
    assert got.status == "insufficient"
    assert "reference_step" in got.reason
    assert run(dense, reference_step=24).summary["gamma_aggregate"] is not None


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_very_short_runs(rows):
    thetas, _, losses = toys.quadratic(0.5, 0.8, rows - 1)
    got = run(toys.dense(thetas, losses=losses, rates=0.8))
    assert got.status == "insufficient"
    assert set(got.series) == {
        "inner", "update_norm_squared", "loss_gap", "distance_squared", "cosine", "gamma",
    }  # fmt: skip
    assert {
        "gamma_trajectory", "gamma_aggregate", "violated_fraction", "cosine_mean", "reference_step",
    } <= set(got.summary)  # fmt: skip
    assert got.summary["verdict"] == "undetermined"


def test_a_step_that_never_moved_does_not_count_as_pointing_away():
    thetas = np.array([[3.0], [2.0], [2.0], [1.0]])
    got = run(toys.dense(thetas, losses=np.ones(4), rates=0.1))
    assert got.series["cosine"].value == [1.0, None, 1.0]
    assert got.series["gamma"].value[1] is None
    assert got.reason == "2 usable updates cannot tell; 5 are needed"
    got = run(toys.dense(thetas, losses=np.ones(4), rates=0.1), fewest_updates=2)
    assert got.summary["gamma_trajectory"] > 0
    assert got.summary["violated_fraction"] == 0


def test_a_run_that_never_moves_has_nothing_to_align():
    still = np.ones((40, 3))
    got = run(toys.dense(still, 0 * still, losses=np.ones(40), rates=0.0))
    assert got.status == "insufficient"
    assert got.reason == "0 usable updates cannot tell; 5 are needed"


def noisy_descent(noise, steps=200, seed=0):
    """Descent towards 0 from afar with recorded updates g + noise; γ about the optimum is known."""
    rng = np.random.default_rng(seed)
    theta = np.linspace(50, 40, steps)[:, None] * np.ones(4)
    updates = 0.5 * theta + noise * rng.normal(size=theta.shape)
    at = np.arange(steps)
    return Dense(
        {"params": np.append(at, steps), "updates": at},
        {"params": {"w": np.vstack([theta, np.zeros(4)])}, "updates": {"w": updates}},
        {"loss": (at, np.full(steps, 3.0))},
    )


def test_intervals_hold_what_noise_free_updates_would_give_and_grow_with_the_noise():
    exact = run(noisy_descent(0.0)).summary
    widths, held = [], []
    for noise in (1.0, 20.0):
        found = [run(noisy_descent(noise, seed=seed)).summary for seed in range(20)]
        spans = [f["gamma_aggregate_interval"] for f in found]
        widths.append(np.mean([high - low for low, high in spans]))
        # The noise enters b = ‖U‖², so the truth is the mean over many runs.
        truth = np.mean([f["gamma_aggregate"] for f in found])
        held.append(np.mean([low <= truth <= high for low, high in spans]))
        assert all(
            low <= f["cosine_mean"] <= high <= 1
            for f in found
            for low, high in [f["cosine_mean_interval"]]
        )
    assert widths[1] > 3 * widths[0]
    assert min(held) >= 0.85
    assert exact["violated_fraction"] == 0
    assert exact["violated_fraction_interval"][1] > 0  # none seen is not none


def test_the_least_gamma_says_where_it_is():
    got = run(noisy_descent(20.0))
    gamma = np.array(got.series["gamma"].value)
    assert got.summary["gamma_trajectory_step"] == int(np.argmin(gamma[:190]))
    assert got.summary["gamma_trajectory"] == gamma[got.summary["gamma_trajectory_step"]]


def test_each_tensor_has_its_intervals():
    got = run(random_dense(rows=60))
    for entry in got.per_tensor.values():
        for name in ("cosine_mean", "violated_fraction", "gamma_share"):
            low, high = entry.summary[f"{name}_interval"]
            assert low < entry.summary[name] < high


def test_needs_are_skipped_with_a_remedy():
    assert isinstance(Alignment().needs(Dense({}, {}).header), Skipped)
    skipped = Alignment(reference_step=99).needs(random_dense().header)
    assert isinstance(skipped, Skipped)
    assert "0 to 24" in skipped.reason
