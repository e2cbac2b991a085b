from dataclasses import replace

import numpy as np
import pytest

from tests.toys_layers import quadratic, stability_quadratic, tanh_network
from tests.twin import Dense, measure
from trajfile.metrics import curvature as path
from trajfile.metrics import ritz as values_of_windows
from trajfile.metrics.base import Skipped
from trajfile.metrics.edge import judge_edge
from trajfile.metrics.sharpness import Sharpness
from trajfile.metrics.thresholds import stability_threshold


def result(dense, **options):
    metric = Sharpness(**options)
    return metric.compute(measure(dense, metric.needs(dense.header)))


def vectors(dense, stream):
    rows = [np.asarray(x, np.float64) for x in dense.arrays[stream].values()]
    return np.concatenate([x.reshape(len(x), -1) for x in rows], axis=1)


def plain_ritz(displacements, turns):
    """The plain recipe on whole vectors: QR of S, M = Q'Y R^-1."""
    q, r = np.linalg.qr((displacements / np.linalg.norm(displacements, axis=1)[:, None]).T)
    y = (turns / np.linalg.norm(displacements, axis=1)[:, None]).T
    m = q.T @ y @ np.linalg.inv(r)
    return float(np.linalg.eigvalsh((m + m.T) / 2)[-1])


@pytest.fixture(scope="module")
def burst():
    return tanh_network(0.3, 260)


@pytest.mark.parametrize(("rate", "ritz"), [(0.099, 20.000), (0.05, 4.907)])
def test_quadratic_gives_the_numbers_of_the_definition(rate, ritz):
    got = result(stability_quadratic(rate))
    assert got.summary["estimator"] == "ritz_lower_bound"
    assert got.summary["last"] == pytest.approx(ritz, abs=5e-4)
    if rate == 0.099:
        assert got.series["secant"].value[-1] == pytest.approx(19.976, abs=5e-4)


def test_the_sharp_direction_that_dies_in_one_step_is_not_claimed():
    got = result(stability_quadratic(0.05), edge_samples=3)
    assert got.summary["last"] < 5
    assert got.summary["at_edge"] is None
    assert "lower bound" in got.sentence


def test_secant_and_ritz_agree_with_whole_vectors_where_one_hessian_is_shared():
    rng = np.random.default_rng(3)
    half = rng.standard_normal((30, 30))
    hessian = half @ half.T / 30
    theta = rng.standard_normal((9, 30))
    dense = Dense(
        steps={"params": np.arange(9), "gradients": np.arange(9)},
        arrays={"params": {"a": theta}, "gradients": {"a": theta @ hessian}},
        gradient={"source": "full_batch"},
    )
    got = result(dense)
    s, y = np.diff(theta, axis=0), np.diff(theta @ hessian, axis=0)
    for i in range(8):
        expected = (s[i] @ y[i]) / (s[i] @ s[i])
        assert got.series["secant"].value[i] == pytest.approx(expected, rel=1e-9)
        lo = max(i - 5, 0)
        bound = plain_ritz(s[lo : i + 1], y[lo : i + 1])
        assert got.series["ritz"].value[i] == pytest.approx(bound, rel=1e-9)
        assert got.series["asymmetry"].value[i] < 1e-9
        assert got.series["ritz_rank"].value[i] == min(i + 1, 6)
    assert got.summary["max"] <= np.linalg.eigvalsh(hessian)[-1]


def test_a_burst_at_the_edge_does_not_overshoot_where_the_plain_recipe_does(burst):
    dense, exact = burst
    got = result(dense)
    s, y = np.diff(vectors(dense, "params"), axis=0), np.diff(vectors(dense, "gradients"), axis=0)
    # λ_max at any of the window's snapshots; the Hessian averages over nothing beyond them.
    over = [max(exact[max(i - 5, 0) : i + 2]) for i in range(len(s))]
    plain = [plain_ritz(s[i - 5 : i + 1], y[i - 5 : i + 1]) / over[i] for i in range(5, len(s))]
    assert max(plain) > 1.5
    assert min(got.series["ritz_rank"].value[5:]) < 6
    assert max(np.array(got.series["ritz"].value) / over) < 1.05


@pytest.mark.parametrize("seed", [1, 5])
def test_no_ritz_value_of_a_burst_is_above_the_sharpness_by_more_than_its_error(seed):
    dense, exact = tanh_network(0.3, 200, seed)
    got = result(dense)
    ritz, error = (np.array(got.series[n].value, np.float64) for n in ("ritz", "ritz_error"))
    over = np.array([exact[max(i - 5, 0) : i + 2].max() for i in range(len(ritz))])
    assert (ritz <= over + error).all()
    # That would be easy with a large error; at the edge it is small.
    assert np.median(error[120:] / over[120:]) < 0.02


@pytest.mark.parametrize("seed", range(5))
def test_an_eigenvalue_lies_within_the_error_of_every_ritz_value(seed):
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((12, 12))
    hessian = half + half.T
    theta = np.cumsum(rng.standard_normal((15, 12)), axis=0)
    dense = Dense(
        steps={"params": np.arange(15), "gradients": np.arange(15)},
        arrays={"params": {"a": theta}, "gradients": {"a": theta @ hessian}},
        gradient={"source": "full_batch"},
    )
    got = result(dense)
    values = np.linalg.eigvalsh(hessian)
    for ritz, error in zip(got.series["ritz"].value, got.series["ritz_error"].value, strict=True):
        assert np.abs(values - ritz).min() <= error * (1 + 1e-9)
        assert error < 2 * np.abs(values).max()
    assert got.summary["last_error"] == got.series["ritz_error"].value[-1]


def test_a_tensors_secant_is_its_blocks_curvature_only_without_coupling():
    rng = np.random.default_rng(2)
    a, b = (x @ x.T for x in rng.standard_normal((2, 4, 4)))
    coupling = rng.standard_normal((4, 4))
    theta = np.cumsum(rng.standard_normal((10, 8)), axis=0)
    moves = np.diff(theta, axis=0)

    def tensors(cross):
        hessian = np.block([[a, cross], [cross.T, b]])
        gradients = theta @ hessian
        dense = Dense(
            steps={"params": np.arange(10), "gradients": np.arange(10)},
            arrays={
                "params": {"a": theta[:, :4], "b": theta[:, 4:]},
                "gradients": {"a": gradients[:, :4], "b": gradients[:, 4:]},
            },
            gradient={"source": "full_batch"},
        )
        return result(dense).per_tensor

    def block(s):
        return np.median(((s @ a) * s).sum(axis=1) / (s**2).sum(axis=1))

    alone = tensors(np.zeros((4, 4)))
    assert alone["a"].summary["secant_median"] == pytest.approx(block(moves[:, :4]))
    both = tensors(coupling)
    assert both["a"].summary["secant_median"] != pytest.approx(block(moves[:, :4]), rel=0.05)
    for told in (alone, both):
        assert sum(t.summary["secant_share"] for t in told.values()) == pytest.approx(1.0)


def test_the_edge_of_stability_is_seen_and_said(burst):
    dense, exact = burst
    got = result(dense)
    assert got.summary["at_edge"] is True
    assert got.summary["threshold_rule"] == "2/η"
    assert got.summary["threshold_last"] == pytest.approx(2 / 0.3)
    assert 0.9 < np.median(exact[-65:]) * 0.3 / 2 < 1.2  # it really is there
    assert [f.id for f in got.findings] == ["sharpness.at_edge"]
    assert got.salience == 0.85
    assert "edge of stability" in got.sentence


def test_float32_recording_gives_the_same_verdict(burst):
    dense, _ = burst
    rounded = replace(
        dense,
        arrays={
            stream: {name: rows.astype(np.float32) for name, rows in named.items()}
            for stream, named in dense.arrays.items()
        },
    )
    a, b = result(dense), result(rounded)
    assert b.summary["at_edge"] is True
    assert b.summary["max"] == pytest.approx(a.summary["max"], rel=0.02)


def test_mini_batch_gradients_of_unknown_noise_give_series_but_no_figure(burst):
    dense, _ = burst
    momentum = {"name": "SGD", "momentum": 0.9}
    got = result(replace(dense, gradient={"source": "mini_batch"}, optimizer=momentum))
    whole = result(dense)
    assert got.status == "insufficient"
    assert "mini-batches" in got.reason
    assert "gradient_samples" in got.reason
    for figure in ("estimator", "max", "last", "edge_ratio_last", "at_edge", "secant_max"):
        assert got.summary[figure] is None
    assert got.per_tensor == {}
    assert got.findings == []
    assert got.series["ritz"] == whole.series["ritz"]
    assert got.series["secant"] == whole.series["secant"]


def noisy_quadratic(sigma, steps=120, width=4000, rate=0.05, momentum=0.0):
    """SGD on a quadratic, eight gradient samples at every twentieth step; the noiseless secants."""
    rng = np.random.default_rng(1)
    curvature = np.r_[20.0, np.linspace(5.0, 2.0, width - 1)]
    theta, buffer = rng.standard_normal(width), np.zeros(width)
    thetas, gradients, samples = [], [], []
    for step in range(steps):
        gradient = curvature * theta + sigma * rng.standard_normal(width)
        thetas.append(theta)
        gradients.append(gradient)
        if step % 20 == 0 or step == steps - 1:
            samples.append(curvature * theta + sigma * rng.standard_normal((8, width)))
        buffer = momentum * buffer + gradient
        theta = theta - rate * buffer
    sampled = np.r_[np.arange(0, steps, 20), steps - 1]
    dense = Dense(
        steps={
            "params": np.arange(steps),
            "gradients": np.arange(steps),
            "gradient_samples": np.repeat(sampled, 8),
        },
        arrays={
            "params": {"x": np.array(thetas)},
            "gradients": {"x": np.array(gradients)},
            "gradient_samples": {"x": np.concatenate(samples)},
        },
        scalars={"learning_rate": ([0], [rate])},
        optimizer={"name": "SGD", "momentum": momentum},
        gradient={"source": "mini_batch", "stage": "raw"},
    )
    s = np.diff(np.array(thetas), axis=0)
    return dense, (s**2 @ curvature) / (s**2).sum(axis=1)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_samples_tell_curvature_from_noise(momentum):
    """At stationarity the noiseless secant over what is added to it is the reported ratio."""
    dense, true = noisy_quadratic(0.3, rate=0.02, momentum=momentum)
    got = result(dense)
    secants = np.array(got.series["secant"].value, np.float64)
    expected = true[-30:].sum() / (secants[-30:] - true[-30:]).sum()
    assert got.summary["signal_source"] == "gradient_samples"
    assert got.summary["signal_to_noise"] == pytest.approx(expected, rel=0.25)
    assert got.status == "insufficient"
    assert got.summary["max"] is None
    assert "signal-to-noise" in got.reason


def test_a_curvature_well_above_its_noise_is_given_without_a_verdict():
    dense, _ = noisy_quadratic(1e-6, steps=60, rate=0.02)
    got = result(dense)
    assert got.status == "ok"
    assert got.summary["signal_to_noise"] > 3
    assert got.summary["estimator"] == "secant"
    assert got.summary["max"] == max(got.series["secant"].value)
    assert 2 < got.summary["max"] < 20
    # Under the least noise the Ritz value is no bound: it finds directions hardly moved in.
    assert max(got.series["ritz"].value) > 25
    assert got.summary["at_edge"] is None
    assert got.caveat is not None
    assert result(dense, signal_floor=1e30).status == "insufficient"
    few = noisy_quadratic(1e-6, steps=5, rate=0.02)[0]
    assert "on 4 displacements" in result(few).reason


@pytest.mark.parametrize("stride", [1, 4])
def test_noise_alone_looks_like_curvature_of_one_over_eta_and_stride(stride):
    """A loss without any curvature under noisy gradients: the reason for the caution."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((80, 5000))
    theta = np.concatenate([np.zeros((1, 5000)), -0.1 * np.cumsum(noise[:-1], axis=0)])
    at = np.arange(0, 80, stride)
    dense = Dense(
        steps={"params": at, "gradients": at},
        arrays={"params": {"x": theta[at]}, "gradients": {"x": noise[at]}},
        scalars={"learning_rate": ([0], [0.1])},
        optimizer={"name": "SGD", "momentum": 0.0},
        gradient={"source": "mini_batch"},
    )
    got = result(dense)
    secants = np.array(got.series["secant"].value[:-1], np.float64)
    assert np.median(secants) == pytest.approx(1 / (0.1 * stride), rel=0.05)
    assert got.status == "insufficient"
    assert got.summary["signal_source"] == "asymmetry"
    assert got.summary["signal_to_noise"] < 0.3
    assert "judged by asymmetry on" in got.reason


def test_a_recorded_sharpness_is_trusted_over_the_ritz_value(burst):
    dense, exact = burst
    scalars = {**dense.scalars, "sharpness": (np.arange(len(exact)), exact)}
    got = result(replace(dense, scalars=scalars))
    assert got.summary["estimator"] == "recorded"
    assert got.summary["at_edge"] is True
    assert got.series["recorded"].value == pytest.approx(list(exact))
    assert got.summary["max"] == pytest.approx(exact.max())


@pytest.mark.parametrize(("ratio", "findings"), [(0.4, []), (1.6, ["sharpness.above_threshold"])])
def test_a_recorded_sharpness_away_from_the_threshold_is_not_at_the_edge(ratio, findings):
    steps = np.arange(40)
    dense = Dense(
        steps={},
        arrays={},
        scalars={
            "lambda_max": (steps, np.full(40, 200.0 * ratio)),
            "learning_rate": ([0], [0.01]),
        },
        optimizer={"name": "SGD", "momentum": 0.0},
    )
    got = result(dense)
    assert got.summary["at_edge"] is False
    assert got.summary["edge_ratio_last"] == pytest.approx(ratio)
    assert [f.id for f in got.findings] == findings


@pytest.mark.parametrize("together", [1, 7, 100])
def test_windows_are_the_same_however_many_are_worked_on_at_a_time(burst, together, monkeypatch):
    dense, _ = burst
    whole = result(dense)
    monkeypatch.setattr(path, "_TOGETHER", together)
    parts = result(dense)
    assert parts.series.keys() == whole.series.keys()
    for name, series in whole.series.items():
        found = np.array(parts.series[name].value, np.float64)
        np.testing.assert_allclose(found, np.array(series.value, np.float64), rtol=1e-10)


def test_of_one_direction_the_value_is_that_direction_s_own():
    rng = np.random.default_rng(5)
    matrices = rng.standard_normal((50, 4, 4))
    matrices += matrices.transpose(0, 2, 1)
    kept = np.arange(4) < rng.integers(1, 5, 50)[:, None]
    top, vector = values_of_windows._top_eigenpair(matrices, kept)
    for matrix, some, value, q in zip(matrices, kept, top, vector, strict=True):
        expected = np.linalg.eigvalsh(matrix[some][:, some])[-1]
        assert value == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose((matrix @ q)[some], value * q[some], atol=1e-12)
        np.testing.assert_allclose(q[~some], 0, atol=1e-12)


def test_windows_do_not_join_bursts():
    """Two bursts on quadratics of different curvature, far apart: each keeps its own."""
    a = quadratic([20.0, 5.0], [1.0, 1.0], 0.09, 4)
    b = quadratic([40.0, 2.0], [1.0, 1.0], 0.045, 4)
    at = np.r_[0:5, 1000:1005]
    dense = Dense(
        steps={"params": at, "gradients": at},
        arrays={
            s: {"x": np.concatenate([a.arrays[s]["x"], 3 + b.arrays[s]["x"]])}
            for s in ("params", "gradients")
        },
        gradient={"source": "full_batch"},
    )
    got = result(dense)
    ritz = dict(zip(got.series["ritz"].step, got.series["ritz"].value, strict=True))
    assert ritz[3] == pytest.approx(20.0, rel=1e-6)
    assert ritz[1001] == pytest.approx(40.0, rel=1e-6)
    assert any("996 steps apart" in note for note in got.notes)


@pytest.mark.parametrize(
    ("optimizer", "factor", "rule"),
    [
        ({"name": "SGD"}, 2.0, "2/η"),
        ({"name": "SGD", "momentum": 0.9}, 3.8, "(2 + 2β)/η"),
        ({"name": "SGD", "momentum": 0.9, "nesterov": True}, 3.8 / 2.8, "(2 + 2β)/(η(1 + 2β))"),
        ({"name": "AdamW", "betas": [0.9, 0.999]}, 38.0, "(2 + 2β₁)/((1 − β₁)η)"),
        ({"name": "Adam"}, None, None),
        ({"name": "Lion"}, None, None),
        ({}, None, None),
    ],
)
def test_thresholds(optimizer, factor, rule):
    header = Dense({}, {}, {"learning_rate": ([0, 10], [0.1, 0.05])}, optimizer).header
    got = stability_threshold(header, np.array([0, 10, 11]))
    assert got.rule == rule
    if factor is None:
        assert np.isnan(got.values).all()
        assert got.note
    else:
        assert got.values == pytest.approx(factor / np.array([0.1, 0.05, 0.05]))


@pytest.mark.parametrize("nesterov", [False, True])
def test_thresholds_of_momentum_are_where_the_update_starts_to_diverge(nesterov):
    """Iterate the optimizer itself on a quadratic just below and just above the limit."""
    optimizer = {"name": "SGD", "momentum": 0.8, "nesterov": nesterov}
    header = Dense({}, {}, {"learning_rate": ([0], [0.1])}, optimizer).header
    limit = float(stability_threshold(header, np.array([0])).values[0])
    for curvature, grows in ((0.98 * limit, False), (1.02 * limit, True)):
        x, buffer = 1.0, 0.0
        for _ in range(2000):
            gradient = curvature * x
            buffer = 0.8 * buffer + gradient
            x -= 0.1 * (gradient + 0.8 * buffer if nesterov else buffer)
        assert bool(abs(x) > 1) is grows


def test_adam_is_not_judged_by_the_plain_hessian(burst):
    dense, _ = burst
    got = result(replace(dense, optimizer={"name": "Adam", "betas": [0.9, 0.999]}))
    assert got.summary["threshold_last"] == pytest.approx(38 / 0.3)
    assert got.summary["edge_ratio_last"] is None
    assert got.summary["at_edge"] is None
    assert any("preconditioned" in note for note in got.notes)


def test_adam_is_judged_by_a_recorded_preconditioned_sharpness():
    dense = Dense(
        {},
        {},
        {
            "preconditioned_sharpness": (np.arange(20), np.full(20, 3700.0)),
            "sharpness": (np.arange(20), np.full(20, 5.0)),
            "learning_rate": ([0], [0.01]),
        },
        {"name": "Adam", "betas": [0.9, 0.999]},
    )
    got = result(dense)
    assert got.summary["at_edge"] is True
    assert got.summary["edge_ratio_median"] == pytest.approx(3700 / 3800)
    raw = result(dense, recorded="sharpness")
    assert raw.summary["last"] == 5.0
    assert raw.summary["edge_ratio_median"] is None
    dense.scalars["mine"] = dense.scalars["preconditioned_sharpness"]
    assert result(dense, recorded="mine").summary["at_edge"] is True
    assert isinstance(Sharpness(recorded="other").needs(dense.header), Skipped)


def test_missing_streams_and_wrong_stage_are_skipped_with_a_remedy():
    dense = quadratic([2.0, 1.0], [1.0, 1.0], 0.1, 3)
    alone = replace(
        dense, steps={"params": np.arange(4)}, arrays={"params": dense.arrays["params"]}
    )
    skipped = Sharpness().needs(alone.header)
    assert isinstance(skipped, Skipped)
    assert skipped.stream == "gradients"
    scaled = Sharpness().needs(replace(dense, gradient={"stage": "scaled"}).header)
    assert isinstance(scaled, Skipped)
    assert "unscaled" in scaled.reason


def test_params_without_gradients_are_said_to_understate_the_curvature():
    dense = quadratic([2.0, 1.0], [1.0, 1.0], 0.1, 9)
    dense.arrays["params"]["running_mean"] = np.arange(10.0).reshape(10, 1)
    got = result(dense)
    assert got.summary["secant_max"] < 0.5
    assert got.summary["max"] <= 2 + 1e-6
    assert any("1 tensors have params but no gradients" in note for note in got.notes)


@pytest.mark.parametrize("rows", [1, 2])
def test_few_snapshots(rows):
    dense = quadratic([2.0, 1.0], [1.0, 1.0], 0.1, rows - 1)
    got = result(dense)
    assert got.status == ("insufficient" if rows == 1 else "ok")
    if rows == 2:
        assert got.summary["last"] == pytest.approx(got.series["secant"].value[0])
        assert got.summary["at_edge"] is None


def test_streams_without_a_common_step_are_insufficient():
    dense = quadratic([2.0], [1.0], 0.1, 4)
    dense.steps["gradients"] = np.arange(5) + 100
    assert result(dense).status == "insufficient"


def test_a_tail_of_nan_leaves_the_finite_part():
    dense = quadratic([2.0, 1.0], [1.0, 1.0], 0.1, 9)
    whole = result(dense)
    for stream in ("params", "gradients"):
        dense.arrays[stream]["x"][6:] = np.nan
    got = result(dense)
    assert got.series["ritz"].value[:5] == pytest.approx(whole.series["ritz"].value[:5])
    assert got.series["ritz"].value[5:] == [None] * 4
    assert got.summary["last"] == pytest.approx(whole.series["ritz"].value[4])


def test_the_edge_is_where_the_rise_levels_off():
    steps = np.arange(0, 400, 4)
    ratio = np.r_[np.linspace(0.1, 1.0, 50), np.full(50, 1.02)]
    options = {"band": (0.9, 1.2), "part": 0.25, "least": 8}
    edge = judge_edge(steps, ratio, lower_bound=True, **options)
    assert edge.at_edge is True
    assert 160 < edge.since <= 200
    assert edge.since_range[0] <= edge.since <= edge.since_range[1]
    assert judge_edge(steps, ratio[::-1], lower_bound=True, **options).at_edge is None
    assert judge_edge(steps, ratio[::-1], lower_bound=False, **options).at_edge is False
    assert judge_edge(steps[:7], ratio[-7:], lower_bound=False, **options).at_edge is None


@pytest.mark.parametrize("stride", [1, 5])
@pytest.mark.parametrize("seed", range(4))
def test_the_edge_is_found_under_noise_at_any_cadence(seed, stride):
    rng = np.random.default_rng(seed)
    steps = np.arange(0, 2000, 5)
    course = np.minimum(0.2 + steps / 1000 * 0.82, 1.02)
    ratio = course + 0.05 * rng.standard_normal(len(steps))
    options = {"band": (0.9, 1.5), "part": 0.25, "least": 8, "lower_bound": False}
    edge = judge_edge(steps[::stride], ratio[::stride], **options)
    assert edge.at_edge is True
    assert edge.interval.low <= 1.02 <= edge.interval.high
    assert edge.since == pytest.approx(1000, abs=150)
    below = judge_edge(steps[::stride], ratio[::stride] - 0.3, **options)
    assert below.at_edge is False
    assert below.since is None


@pytest.mark.parametrize("lower_bound", [True, False])
def test_a_ratio_that_swings_across_the_band_does_not_hover(lower_bound):
    rng = np.random.default_rng(0)
    ratio = np.exp(rng.uniform(np.log(0.65), np.log(1.65), 800))
    options = {"band": (0.9, 1.5), "part": 0.25, "least": 8, "lower_bound": lower_bound}
    edge = judge_edge(np.arange(800), ratio, **options)
    assert edge.at_edge is None
    # Its median alone is well within the band.
    assert 0.9 < edge.interval.low < edge.interval.high < 1.5
    calm = judge_edge(np.arange(800), 1 + (ratio - 1) / 4, **options)
    assert calm.at_edge is True


def test_a_ratio_whose_interval_leaves_the_band_is_undetermined():
    rng = np.random.default_rng(3)
    ratio = 0.9 + 0.1 * rng.standard_normal(60)
    options = {"band": (0.9, 1.5), "part": 0.25, "least": 8, "lower_bound": False}
    edge = judge_edge(np.arange(60), ratio, **options)
    assert edge.at_edge is None
    assert edge.interval.low < 0.9 < edge.interval.high
