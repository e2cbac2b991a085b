"""The pass: held against the dense twin, reading every byte once, within its memory."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.recorded import measured, plan_for, recorded
from tests.twin import Dense, measure
from trajfile.engine.device import Machine, Slot, machine_for
from trajfile.engine.needs import Inner, LayerLaw, LayerPair, Row, SampleGram, Timeline
from trajfile.engine.shape import Profile
from trajfile.engine.stream import run_pass
from trajfile.errors import Damaged, ResourceError, UsageError

P = Timeline(("params",))
PG = Timeline(("params", "gradients"))
FEW = Timeline(("params",), limit=9)
VALUE, STEP = Row("params", P), Row("params", P, "difference")
FROM_LAST = Row("params", P, "offset", 44)
S, Y = Row("params", PG, "difference"), Row("gradients", PG, "difference")
SPREAD = Row("params", FEW, "offset", 0)
SHAPES = {"a": (5, 7), "b": (13,), "s": (), "none": (0, 3), "w1": (6, 4), "w2": (3, 6)}

EVERYTHING = [
    Inner(VALUE, VALUE, per_tensor=True),
    Inner(VALUE, STEP, per_tensor=True),
    Inner(STEP, STEP, (0, 1)),
    Inner(FROM_LAST, FROM_LAST),
    Inner(FROM_LAST, STEP, per_tensor=True),
    Inner(S, S, tuple(range(-5, 6))),
    Inner(S, Y, tuple(range(-5, 6))),
    Inner(Y, S, (0, 2, -3), per_tensor=True),
    Inner(Row("gradients", PG), Row("gradients", PG), per_tensor=True),
    Inner(SPREAD, SPREAD, tuple(range(9))),
    Inner(VALUE, VALUE, tuple(range(26))),
    SampleGram(),
    LayerPair("w1", "w2", PG, LayerLaw((0.9,) * 5 + (None,) * 7, (0.1,) * 12)),
    LayerPair("w1", "w2", FEW),
]


def walk(generator, rows, shape, dtype="f4"):
    moves = 0.1 * generator.standard_normal((rows, *shape))
    return (np.cumsum(moves, axis=0) + 3).astype(dtype)


def run(rows=23):
    """Streams of different cadence, order and dtype; the number of samples varies."""
    generator = np.random.default_rng(1)
    steps = 2 * np.arange(rows)
    sampled = np.repeat(steps[::5], 2 + np.arange(len(steps[::5])) % 3)
    return Dense(
        {"params": steps, "gradients": steps[::2], "gradient_samples": sampled},
        {
            "params": {
                n: walk(generator, rows, s, "f8" if n == "b" else "f4") for n, s in SHAPES.items()
            },
            "gradients": {
                n: walk(generator, len(steps[::2]), s)
                for n, s in reversed(SHAPES.items())
                if n != "s"
            },
            "gradient_samples": {n: walk(generator, len(sampled), s) for n, s in SHAPES.items()},
        },
    )


def agree(found, expected, rtol=1e-11):
    """Whether measurements are those of the twin; per tensor, those that were declared."""

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)

    assert found.bands.keys() == expected.bands.keys()
    for rows, band in expected.bands.items():
        assert found.bands[rows].lags == band.lags
        close(found.bands[rows].total, band.total)
        for name, values in found.bands[rows].tensors.items():
            for lag in found.bands[rows].tensor_lags:
                close(
                    values[:, found.bands[rows].tensor_column(lag)],
                    band.tensors[name][:, band.lags.index(lag)],
                )
    for need, grams in expected.sample_grams.items():
        close(found.sample_grams[need].mean_norm_squared, grams.mean_norm_squared)
        for name, trace in found.sample_grams[need].tensors.items():
            close(trace, grams.tensors[name])
        for a, b in zip(found.sample_grams[need].grams, grams.grams, strict=True):
            close(a, b)
    for need, balance in expected.layer_balances.items():
        for field in ("frobenius", "diagonal_max", "trace", "law_residual", "law_change"):
            close(getattr(found.layer_balances[need], field), getattr(balance, field))


@pytest.fixture(scope="module")
def dense():
    return run()


@pytest.fixture(scope="module")
def expected(dense):
    return measure(dense, EVERYTHING)


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("width", [262144, 8, 3])
@pytest.mark.parametrize("budget", [2**30, 160_000, 100_000, 70_000])
def test_every_need_is_what_the_dense_twin_says(dense, expected, width, budget, workers):
    container = recorded(dense, width=width)
    result = measured(container, EVERYTHING, budget=budget, workers=workers)
    plan = plan_for(container, EVERYTHING, budget=budget, workers=workers)
    agree(result.measurements, expected)
    assert container.bytes_read == result.bytes_read == plan.bytes_to_read
    assert result.peak_bytes <= plan.peak_bytes <= budget


def test_per_tensor_products_are_there_for_every_tensor_both_streams_hold(dense, expected):
    found = measured(recorded(dense), EVERYTHING).measurements
    assert set(found.bands[VALUE, VALUE].tensors) == set(SHAPES)
    assert set(found.bands[Y, S].tensors) == set(SHAPES) - {"s"}
    assert found.bands[STEP, STEP].tensors == {}
    assert not found.per_tensor(VALUE, VALUE)["none"].any()
    with pytest.raises(LookupError, match="per_tensor"):
        found.per_tensor(VALUE, VALUE, 1)
    with pytest.raises(LookupError, match="not declared"):
        found.inner(STEP, FROM_LAST)


def test_many_rows_in_little_memory_are_read_once_in_blocks_that_carry_rows():
    generator = np.random.default_rng(2)
    rows = 400
    steps = np.arange(rows)
    dense = Dense(
        {"params": steps, "gradients": steps},
        {s: {"w": walk(generator, rows, (1000,))} for s in ("params", "gradients")},
    )
    limited = Row("params", Timeline(("params",), limit=20), "offset", 0)
    last = Row("params", P, "offset", rows - 1)
    needs = [
        Inner(S, Y, tuple(range(-5, 6))),
        Inner(limited, limited, tuple(range(20))),
        Inner(last, STEP),
    ]
    container = recorded(dense)
    data = 2 * rows * 1000 * 4
    budget = data // 10
    plan = plan_for(container, needs, budget=budget, workers=1)
    assert len(plan.blocks) > 3
    result = measured(container, needs, budget=budget, workers=1)
    assert result.bytes_read == container.bytes_read == data
    assert result.peak_bytes <= budget
    seen = np.zeros((2, rows, 1000), int)
    for read in container.reads:
        seen[int(read.stream == "params"), slice(*read.rows), slice(*read.columns)] += 1
    assert (seen == 1).all()
    agree(result.measurements, measure(dense, needs))


def test_small_updates_in_float32_keep_their_digits():
    generator = np.random.default_rng(3)
    start = generator.standard_normal(4000)
    moves = np.cumsum(1e-6 * generator.standard_normal((30, 4000)), axis=0)
    dense = Dense({"params": np.arange(30)}, {"params": {"w": (start + moves).astype("f4")}})
    needs = [Inner(STEP, STEP, (0, 1)), Inner(VALUE, STEP)]
    agree(measured(recorded(dense, width=700), needs).measurements, measure(dense, needs))


@pytest.mark.parametrize(
    "dtype",
    [
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e3m4",
        "int4",
        "int16",
        "uint32",
    ],
)
def test_every_dtype_is_measured_as_the_numbers_it_holds(dtype):
    import ml_dtypes

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    generator = np.random.default_rng(4)
    values = generator.integers(0, 7, (11, 40)).astype("f4").astype(kind)
    dense = Dense({"params": np.arange(11)}, {"params": {"w": values}})
    needs = [Inner(VALUE, VALUE), Inner(STEP, STEP, (0, 1, 2))]
    container = recorded(dense, width=16)
    result = measured(container, needs, budget=2**16)
    agree(result.measurements, measure(dense, needs))
    assert result.bytes_read == values.nbytes


def test_a_tensor_that_joins_late_counts_from_its_first_row():
    dense = run()
    late = {"a": 4, "w1": 9}
    for stream in ("params", "gradients"):
        named = dense.arrays[stream]
        dense.arrays[stream] = {n: named[n] for n in sorted(named, key=lambda n: late.get(n, 0))}
        for name, row in late.items():
            dense.arrays[stream][name][: row if stream == "params" else -(-row // 2)] = 0
    needs = [
        Inner(STEP, STEP, tuple(range(4)), per_tensor=True),
        Inner(S, Y, (-1, 0, 1)),
        Inner(VALUE, VALUE, per_tensor=True),
        Inner(Row("params", P, "offset", 0), STEP, per_tensor=True),
    ]
    first = {"params": late, "gradients": {n: -(-r // 2) for n, r in late.items()}}
    container = recorded(dense, first, width=16)
    found = measured(container, needs, budget=90_000).measurements
    steps = dense.steps["params"]

    def rows(name):
        return np.asarray(dense.arrays["params"][name], "f8").reshape(len(steps), -1)

    for lag in range(4):
        total = np.zeros(len(steps) - 1 - lag)
        for name in SHAPES:
            d = np.diff(rows(name), axis=0)
            own = np.einsum("ij,ij->i", d[: len(d) - lag], d[lag:])
            own[: late.get(name, 0)] = 0
            total += own
            alone = found.per_tensor(STEP, STEP, lag)[name]
            assert np.isnan(alone[: late.get(name, 0)]).all()
            np.testing.assert_allclose(
                alone[late.get(name, 0) : len(own)], own[late.get(name, 0) :], rtol=1e-11
            )
        np.testing.assert_allclose(found.inner(STEP, STEP, lag)[: len(total)], total, rtol=1e-11)
    # Its reference row does not exist, so neither do its offsets.
    offsets = found.per_tensor(Row("params", P, "offset", 0), STEP)
    assert np.isnan(offsets["a"]).all()
    assert np.isfinite(offsets["b"][:-1]).all()


def test_what_is_not_finite_spreads_to_its_row_and_no_further():
    dense = run()
    dense.arrays["params"]["a"][7, 2, 3] = np.nan
    dense.arrays["params"]["b"][11, 0] = np.inf
    needs = [Inner(VALUE, VALUE, tuple(range(26)), per_tensor=True), Inner(STEP, STEP, (0, 1, 2))]
    found = measured(recorded(dense), needs).measurements
    with np.errstate(invalid="ignore"):
        agree(found, measure(dense, needs))
    norms = found.inner(VALUE, VALUE)
    assert np.isnan(norms[7])
    assert norms[11] == np.inf
    assert np.isfinite(np.delete(norms, [7, 11])).all()
    assert np.isfinite(found.per_tensor(VALUE, VALUE)["w1"]).all()


def test_a_selection_reads_its_own_steps_and_tensors():
    dense = run()
    container = recorded(dense)
    need = Inner(VALUE, STEP, per_tensor=True)
    found = measured(container, [need], steps="4:40:8", params=["w*"]).measurements
    chosen = [2, 6, 10, 14, 18]
    part = Dense(
        {"params": dense.steps["params"][chosen]},
        {"params": {n: dense.arrays["params"][n][chosen] for n in ("w1", "w2")}},
    )
    agree(found, measure(part, [need]))
    assert container.bytes_read == 5 * (24 + 18) * 4


class Apart(Machine):
    """A device with memory of its own, and a host that forgets a tile once it was copied.

    It stands in for CUDA: what reads the host after the copy, or the device before it, is found.
    """

    def __init__(self, profile):
        super().__init__(profile)
        self.log = []

    def slot(self, size):
        return Slot(torch.empty(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8))

    def upload(self, slot, size):
        slot.device.fill_(255)
        slot.device[:size].copy_(slot.host[:size])
        self.log.append("upload")

    def issued(self, slot):
        slot.device.fill_(255)
        self.log.append("issued")

    def wait_reusable(self, slot):
        slot.host.fill_(255)


def test_tiles_go_through_the_memory_of_a_device_of_its_own(dense, expected):
    container = recorded(dense, width=8)
    machine = Apart(Profile("apart", 1, 4, 2**12))
    plan = plan_for(container, EVERYTHING, budget=120_000, workers=1, slots=4)
    agree(run_pass(plan, container, machine).measurements, expected)
    assert len(machine.log) == 2 * len(plan.strips) * len(plan.blocks)


def test_float32_products_still_keep_the_promised_accuracy(dense):
    # As on large runs, and on cards with few float64 units; sums stay float64.
    container = recorded(dense, width=8)
    needs = [need for need in EVERYTHING if isinstance(need, (Inner, SampleGram))]
    plan = replace(plan_for(container, needs), precision="float32")
    made = run_pass(plan, container, Machine(plan.profile))
    agree(made.measurements, measure(dense, needs), 1e-5)
    assert made.device == "cpu, float32 products"


def test_only_large_passes_over_no_more_than_float32_multiply_in_float32(dense):
    wide = replace(dense, arrays=dict(dense.arrays))
    wide.arrays["params"] = {n: a.astype("f8") for n, a in dense.arrays["params"].items()}
    narrow = replace(dense, arrays=dict(dense.arrays))
    for stream, named in dense.arrays.items():
        narrow.arrays[stream] = {n: a.astype("f4") for n, a in named.items()}
    found = {
        (label, above): plan_for(recorded(run), EVERYTHING, single_above=above).precision
        for label, run in (("wide", wide), ("narrow", narrow))
        for above in (0, 10**9)
    }
    assert found.pop(("narrow", 0)) == "float32"
    assert set(found.values()) == {"float64"}


def test_progress_tells_bytes_done_and_in_all(dense):
    container = recorded(dense, width=8)
    told = []
    plan = plan_for(container, EVERYTHING, budget=90_000)
    run_pass(plan, container, Machine(plan.profile), lambda *now: told.append(now))
    assert len(told) == len(plan.strips) * len(plan.blocks)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (plan.bytes_to_read, plan.bytes_to_read)


def test_damage_met_by_the_reading_thread_is_raised_and_leaves_no_thread(dense):
    import threading

    container = recorded(dense, width=8)
    read = container.read
    calls = []

    def fails_later(*arguments):
        calls.append(arguments)
        if len(calls) == 9:
            raise Damaged("a chunk is broken", path="memory", rule="CORE-009")
        read(*arguments)

    container.read = fails_later
    plan = plan_for(container, EVERYTHING, budget=90_000)
    before = threading.active_count()
    with pytest.raises(Damaged, match="broken"):
        run_pass(plan, container, Machine(plan.profile))
    assert threading.active_count() == before


def test_an_interruption_stops_the_pass_and_its_threads(dense):
    import threading

    container = recorded(dense, width=3)
    plan = plan_for(container, EVERYTHING, budget=90_000)
    before = threading.active_count()

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pass(plan, container, Machine(plan.profile), interrupt)
    assert threading.active_count() == before
    assert container.bytes_read < plan.bytes_to_read


def test_the_number_of_threads_of_pytorch_is_given_back(dense):
    before = torch.get_num_threads()
    measured(recorded(dense), [Inner(STEP, STEP)])
    assert torch.get_num_threads() == before


def test_a_need_that_contradicts_itself_is_a_bug_and_says_so(dense):
    container = recorded(dense)
    for need, why in (
        (Inner(VALUE, Row("gradients", PG)), "one timeline"),
        (Inner(Row("params", P, "offset"), VALUE), "reference step"),
        (Inner(Row("params", P, "value", 4), VALUE), "reference step"),
        (Inner(Row("params", P, "offset", 3), VALUE), "not all recorded"),
        (Inner(Row("gradient_samples", P), VALUE), "no rows of their own"),
    ):
        with pytest.raises(ValueError, match=why):
            plan_for(container, [need])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_one_clear_error():
    with pytest.raises(ResourceError, match="not there"):
        machine_for("cuda:1")


def test_a_device_that_is_none_is_wrong_usage():
    from trajfile.engine.profiles import profile_for

    with pytest.raises(UsageError, match="tpu"):
        profile_for("tpu")
    assert profile_for("cuda:3").device == "cuda:3"


def test_each_worker_computes_on_one_core(dense, monkeypatch):
    """OpenMP keeps the number for each thread: matrix products would take all cores otherwise."""
    told = {}
    change = torch.set_num_threads

    def noted(count):
        told[threading.current_thread().name] = count
        change(count)

    before = torch.get_num_threads()
    change(3)
    try:
        monkeypatch.setattr(torch, "set_num_threads", noted)
        measured(recorded(dense), EVERYTHING, workers=2)
        assert torch.get_num_threads() == 3
    finally:
        change(before)
    assert told == {threading.current_thread().name: 3} | {
        f"trajfile-worker-{n}": 1 for n in (0, 1)
    }
