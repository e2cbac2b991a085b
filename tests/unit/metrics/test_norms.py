"""Norms, relative updates, non-finite values, tensors that never move."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tests import toys
from tests.twin import Dense, measure
from trajfile.metrics.base import Skipped
from trajfile.metrics.norms import Norms


def run(dense, **options):
    metric = Norms(**options)
    return metric.compute(measure(dense, metric.needs(dense.header)))


def random_dense(rows=12, seed=3):
    normal = np.random.default_rng(seed).normal
    shapes = {"a": (3, 4), "b": (5,), "s": ()}
    arrays = {
        stream: {n: normal(size=(rows, *shape)) for n, shape in shapes.items()}
        for stream in ("params", "gradients", "updates")
    }
    return Dense(dict.fromkeys(arrays, np.arange(rows)), arrays)


def whole(dense, stream):
    return np.concatenate(
        [x.reshape(len(x), -1) for x in dense.arrays[stream].values()], axis=1
    ).astype(np.float64)


def test_against_whole_vectors():
    dense = random_dense()
    got = run(dense)
    for stream in ("params", "gradients", "updates"):
        expected = np.linalg.norm(whole(dense, stream), axis=1)
        np.testing.assert_allclose(got.series[stream].value, expected, rtol=1e-12)
        assert got.summary[f"{stream}_last"] == pytest.approx(expected[-1])
    theta = whole(dense, "params")
    relative = np.linalg.norm(np.diff(theta, axis=0), axis=1) / np.linalg.norm(theta[:-1], axis=1)
    np.testing.assert_allclose(got.series["relative_update"].value, relative, rtol=1e-12)
    assert got.series["relative_update"].step == list(range(11))
    a = dense.arrays["params"]["a"].reshape(12, -1)
    ratio = np.linalg.norm(np.diff(a, axis=0), axis=1) / np.linalg.norm(a[:-1], axis=1)
    summary = got.per_tensor["a"].summary
    assert summary["norm"] == pytest.approx(np.linalg.norm(a[-1]))
    assert summary["relative_update_max"] == pytest.approx(ratio.max())
    assert summary["relative_update_median"] == pytest.approx(np.median(ratio))
    assert summary["moved"] is True
    assert summary["gradient_norm_mean"] == pytest.approx(
        np.linalg.norm(dense.arrays["gradients"]["a"].reshape(12, -1), axis=1).mean()
    )


def test_relative_updates_of_1e_6_in_float32():
    normal = np.random.default_rng(0).normal
    first = normal(size=5000).astype(np.float32)
    second = first * (1 + np.float32(1e-6) * normal(size=5000).astype(np.float32))
    dense = Dense({"params": np.arange(2)}, {"params": {"w": np.stack([first, second])}})
    d = second.astype(np.float64) - first.astype(np.float64)
    expected = np.linalg.norm(d) / np.linalg.norm(first.astype(np.float64))
    got = run(dense)
    assert got.series["relative_update"].value[0] == pytest.approx(expected, rel=1e-12)
    assert 1e-7 < expected < 1e-5


def test_the_first_non_finite_value_is_named():
    dense = random_dense()
    dense.arrays["gradients"]["b"][7, 2] = np.inf
    dense.arrays["params"]["a"][8:, 0, 0] = np.nan
    dense.arrays["params"]["b"][9:] = np.nan
    got = run(dense)
    assert got.summary["non_finite_step"] == 7
    (finding,) = [f for f in got.findings if f.id == "norms.non_finite"]
    assert finding.severity == "error"
    assert finding.evidence == {
        "step": 7,
        "stream": "gradients",
        "tensors": ["b"],
        "streams": ["gradients", "params"],
        "first_steps": [7, 8],
        "non_finite_rows": [1, 4],
        "rows": [12, 12],
        "last_row_finite": [True, False],
    }
    # The gradients recover, the params never do.
    assert got.sentence == (
        "From step 8 on, the params of a are not finite, after the gradients of b at step 7."
    )
    assert "gradients of b are NaN or infinite" in finding.message
    assert got.salience == 1.0
    assert got.series["params"].value[8:] == [None] * 4
    assert got.summary["params_last"] is not None


@pytest.mark.parametrize(
    ("rows", "when"),
    [
        ([4], "At step 4,"),
        ([11], "At step 11,"),
        ([4, 6, 9], "At 3 of 12 recorded steps, first at step 4,"),
        ([4, 10, 11], "At 3 of 12 recorded steps, first at step 4, and at all from step 10 on,"),
        (range(4, 12), "From step 4 on,"),
    ],
)
def test_what_recovers_is_not_said_to_last(rows, when):
    dense = random_dense()
    dense.arrays["gradients"]["b"][list(rows)] = np.nan
    assert run(dense).sentence == f"{when} the gradients of b are not finite."


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_recorded_as_nan_or_infinite_counts(value):
    dense = random_dense()
    dense.scalars["loss"] = (np.array([0, 1, 3]), np.array([1.0, 2.0, value]))
    got = run(dense)
    assert got.summary["non_finite_step"] == 3
    assert got.findings[0].evidence["stream"] == "loss"


def test_tensors_that_never_move_are_reported_with_what_is_known():
    dense = random_dense()
    for name in ("a", "b"):
        dense.arrays["params"][name][:] = dense.arrays["params"][name][:1]
    dense.arrays["gradients"]["b"][:] = 0
    got = run(dense)
    (finding,) = [f for f in got.findings if f.id == "norms.dead_tensor"]
    assert finding.evidence == {"tensors": ["a", "b"], "with_gradients": ["a"]}
    assert got.per_tensor["a"].summary["moved"] is False
    assert got.per_tensor["s"].summary["moved"] is True


def test_a_frozen_run_never_moved_and_a_tensor_without_elements_cannot():
    dense = random_dense()
    dense.arrays["params"]["empty"] = np.empty((12, 0, 4))
    moving = run(dense)
    assert moving.per_tensor["empty"].summary["moved"] is None
    assert "norms.dead_tensor" not in {f.id for f in moving.findings}
    assert "never moved" not in moving.sentence
    for values in dense.arrays["params"].values():
        values[:] = values[:1]
    frozen = run(dense)
    assert frozen.sentence == "The parameters never moved."
    (finding,) = [f for f in frozen.findings if f.id == "norms.dead_tensor"]
    assert finding.evidence["tensors"] == ["a", "b", "s"]


def test_exploding_updates_and_gradient_spikes():
    thetas = np.ones((80, 4))
    thetas[60:] = 5.0
    gradients = np.full((80, 4), 0.1)
    gradients[59] = 30.0
    got = run(toys.dense(thetas, gradients))
    exploding, spike = got.findings
    assert (exploding.id, exploding.evidence["first_step"]) == ("norms.exploding_update", 59)
    assert exploding.evidence["worst"] == pytest.approx(4.0)
    assert (spike.id, spike.evidence["first_step"]) == ("norms.gradient_spike", 59)
    assert spike.evidence["worst_factor"] == pytest.approx(300)
    assert (
        run(toys.dense(thetas, gradients), gradient_spike=301, exploding_update=4.1).findings == []
    )


def test_a_calm_run_has_no_findings():
    thetas, slopes, _ = toys.quadratic(0.5, 0.8, 60)
    got = run(toys.dense(thetas, slopes))
    assert got.findings == []
    assert got.summary["relative_update_median"] == pytest.approx(0.4)
    assert got.salience == 0.1
    assert "0.4 of itself" in got.sentence


@pytest.mark.parametrize("rows", [1, 2])
def test_very_short_runs(rows):
    got = run(toys.dense(np.ones((rows, 3)) * np.arange(1, rows + 1)[:, None]))
    assert got.status == "ok"
    assert len(got.series["relative_update"].value) == rows - 1
    assert got.per_tensor["w"].summary["moved"] is (True if rows == 2 else None)


def test_gradients_alone_and_nothing_at_all():
    dense = random_dense()
    del dense.arrays["params"], dense.steps["params"]
    got = run(dense)
    assert got.series["params"].value == got.series["relative_update"].value == []
    assert len(got.series["gradients"].value) == 12
    assert got.summary["non_finite_step"] is None
    assert isinstance(Norms().needs(Dense({}, {}).header), Skipped)


def test_sparse_snapshots_are_noted():
    dense = toys.dense(np.arange(6.0)[:, None] + 1, steps=[0, 10, 20, 30, 40, 50])
    assert any("stride" in note for note in run(dense).notes)


def test_a_zero_parameter_vector_gives_no_relative_update():
    got = run(toys.dense(np.array([[0.0], [1.0], [2.0]])))
    assert got.series["relative_update"].value == [None, 1.0]


def walk(rows, size=50, seed=0):
    """A random walk of equal steps on average, far from zero."""
    normal = np.random.default_rng(seed).normal
    return 1e4 + np.cumsum(normal(size=(rows, size)), axis=0)


def test_the_median_relative_update_has_an_interval_that_narrows_with_the_run():
    wide, narrow = (run(toys.dense(walk(rows))).summary for rows in (20, 500))
    for found in (wide, narrow):
        low, high = found["relative_update_median_interval"]
        assert low < found["relative_update_median"] < high
        assert low < stats.chi(50).median() / (1e4 * np.sqrt(50)) < high  # ‖step‖/‖θ‖
    assert narrow["effective_windows"] > 5 * wide["effective_windows"]
    widths = [np.ptp(found["relative_update_median_interval"]) for found in (wide, narrow)]
    assert widths[1] < widths[0] / 2


def test_every_mean_and_median_of_a_tensor_has_its_interval():
    for entry in run(random_dense()).per_tensor.values():
        for name in ("relative_update_median", "gradient_norm_mean", "update_norm_mean"):
            low, high = entry.summary[f"{name}_interval"]
            assert low < entry.summary[name] < high


def test_too_few_displacements_give_no_bare_median():
    got = run(toys.dense(walk(3)))
    assert got.summary["relative_update_median"] is None
    assert got.summary["relative_update_median_interval"] is None
    assert any("wants 3 displacements, and there are 2" in note for note in got.notes)
    assert run(toys.dense(walk(3)), fewest_updates=2).summary["relative_update_median"] > 0
