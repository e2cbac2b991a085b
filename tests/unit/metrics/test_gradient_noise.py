import numpy as np
import pytest

from tests.twin import Dense, measure
from trajfile.errors import UsageError
from trajfile.metrics.base import Skipped
from trajfile.metrics.break_even import find_break_even
from trajfile.metrics.covariance import spectrum
from trajfile.metrics.gradient_noise import GradientNoise


def run(samples, gradient=None):
    """A run with, at each step, the given samples, an array (L, P)."""
    steps = np.repeat(10 * np.arange(len(samples)), [len(x) for x in samples])
    return Dense(
        steps={"gradient_samples": steps},
        arrays={"gradient_samples": {"w": np.concatenate(samples)}},
        gradient=gradient or {},
    )


def result(dense, **options):
    metric = GradientNoise(**options)
    return metric.compute(measure(dense, metric.needs(dense.header)))


CROSS = np.array([[1.0, 0], [-1, 0], [0, 2], [0, -2]])


@pytest.mark.parametrize(("divisor", "by"), [("L", 4), ("L-1", 3)])
def test_four_gradients_on_a_cross(divisor, by):
    """Rank 2 < L - 1 = 3: index L - 2 would wrongly give 0 for the smallest."""
    got = result(run([CROSS]), divisor=divisor)
    assert got.series["lambda_1"].value == [pytest.approx(8 / by)]
    assert got.series["lambda_star"].value == [pytest.approx(2 / by)]
    assert got.series["trace"].value == [pytest.approx(10 / by)]
    assert got.series["conditioning"].value == [pytest.approx(0.25)]
    if divisor == "L":
        assert got.summary["lambda_1_max"] == pytest.approx(2.0)
        assert got.series["lambda_star"].value == [pytest.approx(0.5)]


def test_spectrum_is_that_of_the_covariance_matrix():
    rng = np.random.default_rng(0)
    samples = [5 + rng.standard_normal((7, 4)) * [1, 2, 3, 4] for _ in range(3)]
    samples.append(
        100
        + rng.standard_normal((6, 40)) @ np.zeros((40, 4))
        + CROSS[[0, 1, 2, 3, 0, 2]] @ rng.standard_normal((2, 4))
    )
    got = result(run(samples))
    for i, g in enumerate(samples):
        k = np.cov(g.T, bias=True)
        values = np.linalg.eigvalsh(k)[::-1]
        rank = np.linalg.matrix_rank(k)
        assert got.series["lambda_1"].value[i] == pytest.approx(values[0])
        assert got.series["lambda_star"].value[i] == pytest.approx(values[rank - 1])
        assert got.series["trace"].value[i] == pytest.approx(np.trace(k))
        noise = np.trace(k) / (g.mean(axis=0) ** 2).sum()
        assert got.series["noise_to_signal"].value[i] == pytest.approx(noise)


def test_many_coordinates_leave_index_l_minus_1():
    rng = np.random.default_rng(1)
    g = rng.standard_normal((5, 300))
    values = np.linalg.eigvalsh(np.cov(g.T, bias=True))[::-1]
    got = result(run([g]))
    assert got.series["lambda_star"].value[0] == pytest.approx(values[3])


def test_scale_per_example_is_that_of_all_batches_without_replacement():
    """Every batch of 2 out of 5 examples, exhaustively: K_S is K_1 (n - S)/(S(n - 1))."""
    rng = np.random.default_rng(2)
    examples = rng.standard_normal((5, 3))
    batches = np.array([examples[[i, j]].mean(axis=0) for i in range(5) for j in range(i)])
    got = result(run([batches], {"batch_size": 2, "dataset_size": 5}))
    expected = np.linalg.eigvalsh(np.cov(examples.T, bias=True))[-1]
    assert got.series["lambda_1_per_example"].value[0] == pytest.approx(expected)
    assert got.summary["batch_size"] == 2


def bump(heights, seed=3):
    rng = np.random.default_rng(seed)
    return [np.sqrt(h) * rng.standard_normal((12, 50)) for h in heights]


def test_break_even_is_the_interior_maximum():
    heights = np.r_[np.linspace(1, 9, 10), np.linspace(8, 1, 10)]
    got = result(run(bump(heights)))
    assert abs(got.summary["break_even_step"] - 90) <= 20
    first, last = got.summary["break_even_range"]
    assert 40 <= first < got.summary["break_even_step"] < last <= 150
    assert got.summary["break_even_rise"] > 2
    assert got.summary["break_even_fall"] > 2
    assert got.salience == 0.55
    assert [f.id for f in got.findings] == ["gradient_noise.break_even"]


@pytest.mark.parametrize(
    "heights",
    [np.linspace(1, 9, 20), np.linspace(9, 1, 20), np.ones(20), np.r_[1.0, 3, 9, 3, 1]],
    ids=["rising", "falling", "flat", "short"],
)
def test_no_break_even_without_a_rise_and_a_fall(heights):
    got = result(run(bump(heights)))
    assert got.summary["break_even_step"] is None
    assert got.findings == []
    assert got.salience == 0.45
    assert any("break-even point is undetermined" in note for note in got.notes)


def test_one_odd_step_is_no_break_even():
    heights = np.ones(20)
    heights[7] = 50
    assert result(run(bump(heights))).summary["break_even_step"] is None


BREAK_EVEN = {"fewest": 8, "stretch": 3, "penalty": 3.0, "rise": 1.25}


@pytest.mark.parametrize("n", [12, 21, 60, 300])
@pytest.mark.parametrize("slope", [0.0, 2.0])
def test_scatter_is_hardly_ever_a_break_even_point(n, slope):
    rng = np.random.default_rng(n)
    course = np.linspace(0, slope, n)
    runs = [np.exp(course + 0.35 * rng.standard_normal(n)) for _ in range(100)]
    found = [find_break_even(np.arange(n), top, **BREAK_EVEN) for top in runs]
    assert sum(each.step is not None for each in found) <= 4
    assert all(each.step is not None or each.reason for each in found)


@pytest.mark.parametrize("stride", [1, 4, 16])
def test_the_break_even_point_does_not_move_with_the_cadence(stride):
    rng = np.random.default_rng(5)
    steps = np.arange(0, 3200, 10)
    course = -np.abs(steps - 1200) / 400
    top = np.exp(course + 0.2 * rng.standard_normal(len(steps)))[::stride]
    got = find_break_even(steps[::stride], top, **BREAK_EVEN)
    assert abs(got.step - 1200) <= 250
    assert got.first <= got.step <= got.last
    assert (
        top[steps[::stride] == got.step]
        == top[(steps[::stride] >= got.first) & (steps[::stride] <= got.last)].max()
    )


def judge(g, **options):
    centred = g - g.mean(axis=0)
    stated = {"fewest": 4, "unbiased": False, "tolerance": 1e-10, **options}
    return spectrum(centred @ centred.T, **stated)


def test_intervals_are_those_of_leaving_each_gradient_out():
    """Against covariance matrices formed anew from all gradients but one."""
    g = np.random.default_rng(7).standard_normal((9, 30)) * np.r_[4.0, np.ones(29)]
    got = judge(g)
    logs = []
    for j in range(9):
        k = np.cov(np.delete(g, j, axis=0).T, bias=True)
        logs.append(np.log([np.linalg.eigvalsh(k)[-1], np.trace(k)]))
    error = np.sqrt(8 / 9 * ((logs - np.mean(logs, axis=0)) ** 2).sum(axis=0))
    quantile = 2.306004  # of Student's t, 8 degrees of freedom, from tables
    for value, interval, e in zip(
        (got.top, got.trace), (got.top_range, got.trace_range), error, strict=True
    ):
        assert np.log(interval.high / value) == pytest.approx(quantile * e, rel=1e-6)
        assert np.log(value / interval.low) == pytest.approx(quantile * e, rel=1e-6)


@pytest.mark.parametrize("count", [12, 60])
def test_intervals_hold_the_covariance_that_the_gradients_were_drawn_from(count):
    rng = np.random.default_rng(count)
    sizes = np.array([10.0, *np.ones(100)])
    covered = np.zeros(2)
    for _ in range(100):
        got = judge(rng.standard_normal((count, 101)) * sizes, unbiased=True)
        covered += [
            got.top_range.low <= 100 <= got.top_range.high,
            got.trace_range.low <= 200 <= got.trace_range.high,
        ]
    assert covered.min() >= 86  # 95 % by name; the jackknife of a dozen falls somewhat short


def test_a_largest_eigenvalue_that_is_no_larger_than_chance_is_said_to_be():
    rng = np.random.default_rng(4)
    got = result(run([rng.standard_normal((8, 5000)) for _ in range(3)]))
    assert got.summary["lambda_1_over_mean"] < 1.2
    assert got.summary["lambda_1_bias"] > 0.5  # nearly all of it is tr K/L
    assert any("measures the trace" in note for note in got.notes)
    spiked = rng.standard_normal((3, 8, 5000)) * np.r_[300.0, np.ones(4999)]
    assert not any("measures the trace" in note for note in result(run(list(spiked))).notes)


def test_too_few_samples_are_insufficient():
    got = result(run([CROSS[:3], CROSS[:2]]))
    assert got.status == "insufficient"
    assert "at least 4" in got.reason
    assert got.summary["samples"] == 3


def test_steps_with_too_few_or_non_finite_samples_are_left_out():
    broken = CROSS.copy()
    broken[1, 1] = np.nan
    got = result(run([CROSS[:2], broken, CROSS]))
    assert got.status == "ok"
    assert got.series["lambda_1"].value == [None, None, pytest.approx(2.0)]
    assert any("varies from 2 to 4" in note for note in got.notes)


def test_equal_samples_have_no_spectrum_but_a_zero():
    got = result(run([np.ones((4, 3))]))
    assert got.series["lambda_1"].value == [0.0]
    assert got.series["lambda_star"].value == [None]
    assert got.summary["conditioning_last"] is None


def test_without_samples_or_with_scaled_ones_it_is_skipped():
    none = GradientNoise().needs(Dense({"gradients": np.arange(3)}, {}).header)
    assert isinstance(none, Skipped)
    assert none.stream == "gradient_samples"
    scaled = GradientNoise().needs(run([CROSS], {"stage": "scaled"}).header)
    assert isinstance(scaled, Skipped)


def test_a_wrong_divisor_is_refused():
    with pytest.raises(UsageError, match="'L' or 'L-1'"):
        GradientNoise(divisor="n")


def test_each_tensor_has_its_share_of_the_trace():
    rng = np.random.default_rng(3)
    given = {"a": rng.normal(size=(12, 3)), "b": 2 * rng.normal(size=(12, 2, 2))}
    dense = Dense({"gradient_samples": np.repeat([0, 5, 9], 4)}, {"gradient_samples": given})
    metric = GradientNoise()
    got = metric.compute(measure(dense, metric.needs(dense.header)))

    def scatter(rows):
        return sum(np.square(g - g.mean(axis=0)).sum() for g in np.split(rows, 3)[-1:])

    a, b = scatter(given["a"]), scatter(given["b"])
    shares = {name: one.summary["trace_share_last"] for name, one in got.per_tensor.items()}
    assert shares == pytest.approx({"a": a / (a + b), "b": b / (a + b)}, rel=1e-12)
