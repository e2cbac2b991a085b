"""What a pass does on a device, done in the processor's memory: the answers of the dense twin.

Streams, events and pinned memory apart, a card is asked for these very operations.
"""

from __future__ import annotations

from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from tests.bench.operations import CountingMachine
from tests.recorded import measured, plan_for, recorded
from tests.twin import Dense, measure
from tests.unit.test_engine import (
    EVERYTHING,
    FROM_LAST,
    STEP,
    VALUE,
    P,
    S,
    Y,
    agree,
    run,
    walk,
)
from trajfile.engine.lanes import Lane, Tile
from trajfile.engine.needs import Inner, Row, SampleGram, Timeline
from trajfile.engine.profiles import cuda_profile
from trajfile.engine.running import Pass
from trajfile.engine.sizes import band_bytes
from trajfile.engine.staging import tile_parts
from trajfile.engine.stream import conclude_pass, run_part, run_pass

#: Tiles as for a card; on a card itself, tests/unit/test_cuda.py asks for the same.
CARD = {
    "workers": 1,
    "slots": 4,
    "lanes": 1,
    "batched": True,
    "band_block": cuda_profile(0).band_block,
    "device": "cuda:0",
}


def passed(dense, needs, first_rows=None, precision=None, kept=True, **options):
    """One pass on a device, with sums per tensor or without; what it brought, plan and machine."""
    container = recorded(dense, first_rows, options.pop("width", 262144))
    plan = plan_for(container, needs, **{**CARD, **options})
    plan = replace(plan, precision=precision or plan.precision)
    assert kept in {plan.per_tensor, None}
    machine = CountingMachine(plan.profile)
    result = run_pass(plan, container, machine)
    assert result.bytes_read == container.bytes_read == plan.bytes_to_read
    assert result.peak_bytes <= plan.peak_bytes
    assert plan.peak_bytes <= plan.budget or not plan.strips  # there is nothing to narrow
    assert machine.tiles == len(plan.strips) * len(plan.blocks)
    return result.measurements, plan, machine


@pytest.fixture(scope="module")
def dense():
    return run()


@pytest.fixture(scope="module")
def expected(dense):
    return measure(dense, EVERYTHING)


@pytest.mark.parametrize("scratch", [2**30, 2**10], ids=["products at once", "few at a time"])
@pytest.mark.parametrize("width", [262144, 8, 3])
@pytest.mark.parametrize("budget", [2**30, 300_000, 200_000])
def test_every_need_is_what_the_dense_twin_says(dense, expected, width, budget, scratch):
    found, _, _ = passed(dense, EVERYTHING, width=width, budget=budget, scratch=scratch)
    agree(found, expected)


@pytest.mark.parametrize("scratch", [2**30, 2**16, 2**13])
@pytest.mark.parametrize("block", [16, 4])
@pytest.mark.parametrize("workers", [1, 3])
def test_nor_do_lanes_or_the_width_of_what_is_multiplied_matter(
    dense, expected, scratch, block, workers
):
    found, plan, _ = passed(
        dense, EVERYTHING, scratch=scratch, band_block=block, workers=workers, lanes=8
    )
    assert plan.columns >= plan.widest or scratch < 2**30
    agree(found, expected)


def test_every_tensor_has_its_own_products_and_no_other(dense):
    found, _, _ = passed(dense, EVERYTHING)
    other = measured(recorded(dense), EVERYTHING).measurements
    for rows, band in other.bands.items():
        assert found.bands[rows].tensors.keys() == band.tensors.keys()
    assert found.sample_grams[SampleGram()].tensors.keys() == {*dense.arrays["params"]} - {"none"}


def long_run(rows=60, sizes=(300, 1, 129, 128, 2, 700, 9, 64)):
    """A run with tensors that begin and end anywhere among groups of columns."""
    generator = np.random.default_rng(5)
    shapes = {f"t{number}": (size,) for number, size in enumerate(sizes)}
    steps = np.arange(rows)
    sampled = np.repeat(steps[::4], 3)
    return Dense(
        {"params": steps, "gradients": steps, "gradient_samples": sampled},
        {
            "params": {n: walk(generator, rows, s) for n, s in shapes.items()},
            "gradients": {n: walk(generator, rows, s) for n, s in shapes.items()},
            "gradient_samples": {n: walk(generator, len(sampled), s) for n, s in shapes.items()},
        },
    )


#: Too scattered for copies of a few rows each.
FEW = Row("params", Timeline(("params",), limit=44), "offset", 0)
MANY_STEPS = [
    Inner(S, Y, (-2, 0, 1), per_tensor=True),
    Inner(STEP, STEP, (0, 1), per_tensor=True),
    Inner(VALUE, VALUE, tuple(range(30))),
    Inner(VALUE, VALUE, (0,), per_tensor=True),
    Inner(Row("params", P, "offset", 59), STEP, per_tensor=True),
    Inner(FEW, FEW, tuple(range(44))),
    Inner(FEW, FEW, (0,), per_tensor=True),
    SampleGram(),
]


@pytest.mark.parametrize(
    ("width", "budget", "scratch", "several", "gathers"),
    [
        (262144, 2**30, 2**30, False, True),
        (200, 2**30, 2**20, False, True),
        (262144, 600_000, 2**20, True, False),
        (37, 360_000, 2**18, True, True),
    ],
)
def test_strips_and_time_blocks_cut_tensors_and_products_anywhere(
    width, budget, scratch, several, gathers
):
    dense = long_run()
    found, plan, _ = passed(dense, MANY_STEPS, width=width, budget=budget, scratch=scratch)
    assert (len(plan.blocks) > 1) == several
    assert gathers == any(g is not None for block in plan.blocks for g in block.gathers)
    agree(found, measure(dense, MANY_STEPS))


def test_float32_products_are_added_up_in_float64(dense):
    needs = [need for need in EVERYTHING if isinstance(need, (Inner, SampleGram))]
    found, plan, _ = passed(dense, needs, precision="float32", width=8, budget=300_000)
    assert plan.precision == "float32"
    agree(found, measure(dense, needs), 1e-5)


def test_many_float32_products_lose_nothing_when_they_are_added_up():
    """Of 300,000 numbers near one, added up in float32, the fifth digit would be wrong."""
    rows = 1 + np.random.default_rng(2).random((3, 300_000), np.float32)
    dense = Dense({"params": np.arange(3)}, {"params": {"a": rows, "b": rows[:, :7]}})
    found, plan, _ = passed(dense, [Inner(VALUE, VALUE, per_tensor=True)], precision="float32")
    assert plan.precision == "float32"
    exact = (rows * rows).astype(np.float64).sum(1)  # of products as they are in float32
    np.testing.assert_allclose(found.bands[VALUE, VALUE].tensors["a"][:, 0], exact, 1e-12)


def test_a_tensor_that_no_sample_holds_has_no_part_in_them():
    dense = run()
    sampled = dense.arrays["gradient_samples"]
    last = list(sampled)[-1]
    joined = len(dense.steps["gradient_samples"]) - 1  # no step has it in all of its samples
    sampled[last][:] = 0
    found, _, _ = passed(dense, [SampleGram()], {"gradient_samples": {last: joined}})
    container = recorded(dense, {"gradient_samples": {last: joined}})
    other = measured(container, [SampleGram()]).measurements
    assert last not in other.sample_grams[SampleGram()].tensors
    parts = found.sample_grams[SampleGram()].tensors
    assert parts.keys() == other.sample_grams[SampleGram()].tensors.keys()


def test_strips_may_come_in_any_order():
    dense = long_run()
    container = recorded(dense, width=200)
    needs = [Inner(VALUE, STEP, per_tensor=True)]
    plan = plan_for(container, needs, **CARD, budget=100_000)
    machine = CountingMachine(plan.profile)
    assert len(plan.strips) > 3
    for order in (plan.strips, plan.strips[::-1], (*plan.strips[1::2], *plan.strips[::2])):
        part = run_part(plan, order, recorded(dense, width=200), machine)
        found = conclude_pass(plan, [part], machine.device).measurements
        agree(found, measure(dense, needs))


def test_tensors_that_join_late_count_from_their_first_row():
    dense = run()
    late = {"a": 4, "w1": 9}
    first = {"params": late, "gradients": {n: -(-row // 2) for n, row in late.items()}}
    for stream, rows in first.items():
        named = dense.arrays[stream]
        dense.arrays[stream] = {n: named[n] for n in sorted(named, key=lambda n: late.get(n, 0))}
        for name, row in rows.items():
            dense.arrays[stream][name][:row] = 0
    needs = [
        Inner(STEP, STEP, tuple(range(4)), per_tensor=True),
        Inner(S, Y, (-1, 0, 1), per_tensor=True),
        Inner(VALUE, VALUE, per_tensor=True),
        Inner(Row("params", P, "offset", 0), STEP, per_tensor=True),
        Inner(FROM_LAST, FROM_LAST, per_tensor=True),
        SampleGram(),
    ]
    for options in ({}, {"width": 16, "budget": 150_000}):
        found, _, _ = passed(dense, needs, first, **options)
        other = measured(recorded(dense, first), needs).measurements
        agree(found, other)
        alone = found.per_tensor(STEP, STEP, 1)["w1"]
        assert np.isnan(alone[:9]).all()
        assert np.isfinite(alone[9:-2]).all()


@pytest.mark.parametrize(("width", "budget"), [(262144, 600_000), (100, 2**30)])
def test_what_is_not_finite_reaches_its_own_tensor_and_its_own_rows(width, budget):
    dense = long_run()
    dense.arrays["params"]["t2"][7, 5] = np.nan
    dense.arrays["params"]["t4"][11, 0] = np.inf
    dense.arrays["params"]["t5"][11, 600] = -np.inf
    dense.arrays["gradients"]["t7"][20, 63] = -np.inf
    needs = [need for need in MANY_STEPS if isinstance(need, Inner)]
    found, _, _ = passed(dense, needs, width=width, budget=budget)
    with np.errstate(invalid="ignore"):
        expected = measure(dense, needs)
    agree(found, expected)
    agree(measured(recorded(dense, width=width), needs).measurements, expected)
    norms = found.per_tensor(VALUE, VALUE)
    assert np.isnan(norms["t2"][7])
    assert norms["t4"][11] == norms["t5"][11] == np.inf
    assert np.isfinite(np.delete(norms["t2"], 7)).all()
    assert np.isfinite([norms[name] for name in ("t0", "t1", "t3", "t6", "t7")]).all()


def test_what_is_summed_of_samples_stays_with_its_tensor_when_it_is_not_finite():
    dense = long_run()
    dense.arrays["gradient_samples"]["t3"][4, 100] = np.nan
    found, _, _ = passed(dense, [SampleGram()])
    traces = found.sample_grams[SampleGram()].tensors
    assert np.isnan(traces["t3"][1])
    assert np.isfinite(np.delete(traces["t3"], 1)).all()
    assert np.isfinite([values for name, values in traces.items() if name != "t3"]).all()


def test_every_bit_is_the_same_in_two_passes():
    dense = long_run()
    first, second = (passed(dense, MANY_STEPS, budget=600_000)[0] for _ in range(2))
    for rows, band in first.bands.items():
        assert band.total.tobytes() == second.bands[rows].total.tobytes()
        for name, values in band.tensors.items():
            assert values.tobytes() == second.bands[rows].tensors[name].tobytes()


def test_without_room_for_products_per_tensor_the_sums_over_all_are_there(dense):
    sizes = (3,) * 300
    dense = long_run(rows=12, sizes=sizes)
    needs = [Inner(STEP, STEP, (0, 2), per_tensor=True), Inner(VALUE, VALUE, per_tensor=True)]
    found, plan, _ = passed(dense, needs, kept=False, budget=160_000)
    assert plan.strips
    assert not found.per_tensor(VALUE, VALUE)
    agree(found, measure(dense, needs))


def test_sums_of_runs_of_lags_take_no_more_than_was_planned(monkeypatch):
    """Blocks and regions each have their own; they are added up when there are too many."""
    dense = long_run()
    first = {s: {f"t{n}": 6 * n for n in range(8)} for s in ("params", "gradients")}
    for stream, rows in first.items():
        for name, row in rows.items():
            dense.arrays[stream][name][:row] = 0
    needs = [Inner(S, Y, tuple(range(-9, 10))), Inner(STEP, STEP, tuple(range(30)))]
    band, held = Lane.band, []

    def noted(lane, pair, run):
        found = band(lane, pair, run)
        held.append(sum(made.nbytes for _, made in lane._bands.values()))
        return found

    monkeypatch.setattr(Lane, "band", noted)
    found, plan, _ = passed(dense, needs, first, budget=400_000)
    assert len(plan.blocks) > 1
    assert len(held) > 0
    assert max(held) <= band_bytes(plan.rows, plan.profile.band_block)
    agree(found, measured(recorded(dense, first), needs).measurements)


def asked(tensors, needs, columns=4096):
    """Operations for a tile of so many columns in so many tensors, and how many kernels."""
    generator = np.random.default_rng(6)
    shapes = {f"t{number}": (columns // tensors,) for number in range(tensors)}
    dense = Dense(
        {"params": np.arange(12), "gradients": np.arange(12), "gradient_samples": np.arange(12)},
        {
            stream: {n: walk(generator, 12, s) for n, s in shapes.items()}
            for stream in ("params", "gradients", "gradient_samples")
        },
    )
    _, plan, machine = passed(dense, needs, scratch=2**30)
    assert len(plan.strips) == len(plan.blocks) == machine.tiles == 1
    assert plan.per_tensor
    return machine.operations, machine.kernels


def test_what_is_asked_for_a_tile_does_not_grow_with_the_number_of_tensors():
    """A fourth more is the bound: where tensors are small a batch has fewer rows, and there is one
    more, or two. Tensor by tensor there would be four kernels for each of seven products.
    """
    needs = [Inner(STEP, STEP, per_tensor=True), Inner(S, Y, (-1, 0, 1), per_tensor=True)]
    needs += [Inner(VALUE, VALUE, per_tensor=True), SampleGram()]
    operations, kernels = asked(4, needs)
    for tensors in (64, 256, 1024):
        more = asked(tensors, needs)
        assert more[0] <= 1.25 * operations
        assert more[1] <= 1.25 * kernels


class Aloof(CountingMachine):
    """A device whose numbers cannot be looked at, as if each look took for ever."""

    def asked(self, operation, arguments):
        super().asked(operation, arguments)
        places = {leaf.device.type for leaf in tree_leaves(arguments) if torch.is_tensor(leaf)}
        if operation.overloadpacket.__name__ not in {"copy_", "_to_copy", "lift_fresh", "detach"}:
            assert places <= {"meta"}, operation


@pytest.mark.parametrize(
    ("made", "needs", "width", "budget"),
    [(run, EVERYTHING, 64, 300_000), (long_run, MANY_STEPS, 37, 360_000)],
)
def test_nothing_of_a_tile_comes_back_before_the_pass_is_over(made, needs, width, budget):
    """On a card, that would be to wait for all that is under way; PyTorch refuses it here."""
    container = recorded(made(), width=width)
    plan = plan_for(container, needs, **{**CARD, "budget": budget, "scratch": 2**16})
    assert len(plan.strips) > 1
    machine = Aloof(plan.profile, "meta")
    whole = Pass(plan, plan.strips, container, machine, lambda done, total: None)
    for strip in plan.strips:
        for number, block in enumerate(plan.blocks):
            work = tuple(whole._work(region, number) for region in strip.regions)
            tile = Tile(strip, block, tile_parts(strip, block), whole.slots[0], work)
            whole.workers[0].multiply(tile, whole.lanes[0], Event())
    assert machine.counts["index_add_"] > len(plan.strips)
    with pytest.raises(NotImplementedError, match="meta"):
        whole.lanes[0].conclude()
