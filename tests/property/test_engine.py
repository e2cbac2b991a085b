"""Whatever the tiles, their order and the memory, the answer is the same, and it is the twin's."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.recorded import measured, plan_for, recorded
from tests.twin import Dense, measure
from trajfile.engine.device import Machine
from trajfile.engine.needs import Inner, Row, SampleGram, Timeline
from trajfile.engine.products import BandSum, conclude, empty_sums
from trajfile.engine.stream import run_pass
from trajfile.errors import ResourceError

P, PG = Timeline(("params",)), Timeline(("params", "gradients"))
SHAPES = [(), (1,), (3,), (4, 5), (2, 3, 2), (0,), (17,)]


@st.composite
def runs(draw):
    """A random run: cadences, shapes, dtypes, scales and sample counts."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(1, 14))
    every = draw(st.integers(1, 3))
    scale = draw(st.sampled_from([1e-6, 1e-2, 1.0]))
    steps = np.cumsum(generator.integers(1, 4, rows))
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4))
    dtype = draw(st.sampled_from(["f4", "f8", "f2"]))
    sampled = np.repeat(steps[::2], draw(st.integers(1, 4)))

    def stream(count, kind):
        return {
            f"t{number}": (
                generator.standard_normal(shape)
                + np.cumsum(scale * generator.standard_normal((count, *shape)), axis=0)
            ).astype(kind)
            for number, shape in enumerate(shapes)
        }

    return Dense(
        {"params": steps, "gradients": steps[::every], "gradient_samples": sampled},
        {
            "params": stream(rows, dtype),
            "gradients": dict(reversed(stream(len(steps[::every]), "f4").items())),
            "gradient_samples": stream(len(sampled), "f4"),
        },
    )


@st.composite
def needs_of(draw, dense):
    """Random needs over the run's streams."""
    steps = dense.steps["params"]
    limit = draw(st.sampled_from([None, 3, 6]))
    spread = Timeline(("params",), limit)
    rows = [
        Row("params", P),
        Row("params", P, "difference"),
        Row("params", P, "offset", int(draw(st.sampled_from(list(steps))))),
        Row("params", PG, "difference"),
        Row("gradients", PG),
        Row("gradients", PG, "difference"),
        Row("params", spread, "offset", int(steps[0])),
    ]
    needs = [SampleGram()]
    for _ in range(draw(st.integers(1, 5))):
        left = draw(st.sampled_from(rows))
        right = draw(st.sampled_from([row for row in rows if row.timeline == left.timeline]))
        lags = draw(st.one_of(st.sets(st.integers(-4, 4), min_size=1), st.just(range(-12, 13))))
        needs.append(Inner(left, right, tuple(sorted(lags)), draw(st.booleans())))
        needs += [Inner(left, left), Inner(right, right)]  # the scale of the product's rounding
    return needs


def same(found, expected, tolerance):
    """Equal within a tolerance relative to the largest norms of the rows multiplied."""

    def norm(row):
        return np.sqrt(np.nanmax(np.append(expected.inner(row, row), 0.0)))

    for (left, right), band in expected.bands.items():
        error = tolerance * norm(left) * norm(right)
        np.testing.assert_allclose(found.bands[left, right].total, band.total, 0, error)
    for need, grams in expected.sample_grams.items():
        for a, b in zip(found.sample_grams[need].grams, grams.grams, strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_tiling_and_any_memory_gives_the_answer_of_the_twin(data):
    dense = data.draw(runs())
    needs = data.draw(needs_of(dense))
    width = data.draw(st.sampled_from([262144, 16, 5, 1]))
    workers = data.draw(st.integers(1, 3))
    budget = data.draw(st.sampled_from([2**30, 100_000, 40_000, 20_000, 10_000]))
    scratch = data.draw(st.sampled_from([2**20, 2**10]))
    container = recorded(dense, width=width)
    expected = measure(dense, needs)
    try:
        result = measured(container, needs, budget=budget, workers=workers, scratch=scratch)
    except ResourceError:
        assert budget < 2**20  # the runs are far smaller
        return
    same(result.measurements, expected, 1e-12)
    assert container.bytes_read == result.bytes_read
    assert result.peak_bytes <= budget
    read = set()
    for stream, lane, rows, columns in container.reads:
        for row in range(*rows):
            for column in range(*columns):
                assert (stream, lane, row, column) not in read
                read.add((stream, lane, row, column))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_two_tilings_agree_to_rounding_in_float64(data):
    dense = data.draw(runs())
    for stream, named in dense.arrays.items():
        dense.arrays[stream] = {name: rows.astype("f8") for name, rows in named.items()}
    # Squares do not cancel, so that a relative bound means something.
    rows = [Row("params", P), Row("params", P, "difference"), Row("gradients", PG)]
    needs = [Inner(row, row, (0,), per_tensor=True) for row in rows]
    one = measured(recorded(dense), needs, workers=1)
    other = measured(
        recorded(dense, width=data.draw(st.sampled_from([1, 4, 16]))),
        needs,
        workers=data.draw(st.integers(1, 3)),
        scratch=2**9,
        budget=data.draw(st.sampled_from([2**20, 60_000])),
    )
    for row in rows:
        np.testing.assert_allclose(
            one.measurements.inner(row, row), other.measurements.inner(row, row), rtol=1e-12
        )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_parts_of_the_columns_merge_in_any_order(data):
    # Each tensor is measured as if it were a run of its own; the sums are merged in random order.
    dense = data.draw(runs())
    needs = [Inner(Row("params", P), Row("params", P), (0, 1, 2), per_tensor=True), SampleGram()]
    whole_plan = plan_for(recorded(dense), needs)
    whole = run_pass(whole_plan, recorded(dense), Machine(whole_plan.profile)).measurements
    merged = empty_sums(whole_plan, Machine(whole_plan.profile))
    for name in data.draw(st.permutations(list(dense.arrays["params"]))):
        part = run_sums(recorded(dense), needs, name)
        if data.draw(st.booleans()):
            merged.merge(part)
        else:
            part.merge(merged)
            merged = part
    found = conclude(whole_plan, merged)
    for rows, band in whole.bands.items():
        np.testing.assert_allclose(found.bands[rows].total, band.total, rtol=1e-12, atol=1e-12)
        assert found.bands[rows].tensors.keys() == band.tensors.keys()
    for a, b in zip(
        found.sample_grams[SampleGram()].grams, whole.sample_grams[SampleGram()].grams, strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def run_sums(container, needs, tensor):
    """The bare sums of a pass over one tensor's columns."""
    plan = plan_for(container, needs, params=[tensor])
    machine = Machine(plan.profile)
    found = run_pass(plan, container, machine).measurements
    sums = empty_sums(plan, machine)
    for number, pair in enumerate(plan.rows.answers):
        band = found.bands[pair]
        singles = {n: np.nan_to_num(values) for n, values in band.tensors.items()}
        sums.bands[number] = BandSum(np.nan_to_num(band.total), singles)
    samples = found.sample_grams[SampleGram()]
    sums.grams = [gram.copy() for gram in samples.grams]
    sums.means = samples.mean_norm_squared.copy()
    return sums
