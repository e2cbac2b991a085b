"""The compiled products: those of the dense twin, to the last bit the same on any threads."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from tests.recorded import plan_for, recorded
from tests.twin import Dense, measure
from tests.unit.test_engine import EVERYTHING, SHAPES, agree, walk
from trajfile.containers import checksum
from trajfile.engine import tables
from trajfile.engine.device import Machine
from trajfile.engine.fused import Fused, kernels
from trajfile.engine.needs import Inner, SampleGram
from trajfile.engine.program import make_program
from trajfile.engine.shares import Shares
from trajfile.engine.stream import run_pass

pytest.importorskip("numba")

from trajfile.containers import kernels as container_kernels
from trajfile.containers import kernels_read, stored
from trajfile.containers.compiling import compiler
from trajfile.engine import kernels as compiled_kernels
from trajfile.engine import kernels_phases, loops

NEEDS = [need for need in EVERYTHING if isinstance(need, (Inner, SampleGram))]
WIDER = SHAPES | {"big": (37, 45)}


def run(dtype, rows=43):
    generator = np.random.default_rng(1)
    steps = 2 * np.arange(rows)
    sampled = np.repeat(steps[::5], 2 + np.arange(len(steps[::5])) % 3)
    return Dense(
        {"params": steps, "gradients": steps[::2], "gradient_samples": sampled},
        {
            "params": {n: walk(generator, rows, s).astype(dtype) for n, s in WIDER.items()},
            "gradients": {
                n: walk(generator, len(steps[::2]), s)
                for n, s in reversed(WIDER.items())
                if n != "s"
            },
            "gradient_samples": {n: walk(generator, len(sampled), s) for n, s in WIDER.items()},
        },
    )


def compiled(dense, needs, monkeypatch=None, **options):
    """Plan and run one pass in float32; what it measured, the plan, and what was compiled."""
    done = []
    container = recorded(dense, width=options.pop("width", 262144))
    plan = replace(plan_for(container, needs, **options), precision="float32")
    if monkeypatch is not None:
        multiply = Fused.multiply
        monkeypatch.setattr(
            Fused, "multiply", lambda *args: done.append(multiply(*args)) or done[-1]
        )
    result = run_pass(plan, container, Machine(plan.profile))
    assert container.bytes_read == result.bytes_read == plan.bytes_to_read
    assert result.peak_bytes <= plan.peak_bytes <= plan.budget
    return result.measurements, plan, done


@pytest.mark.parametrize("dtype", ["f4", ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("width", "budget"), [(262144, 2**30), (64, 900_000), (262144, 500_000)])
def test_compiled_products_are_those_of_the_twin(dtype, width, budget, monkeypatch):
    dense = run(dtype)
    options = {"width": width, "budget": budget, "workers": 2}
    found, plan, done = compiled(dense, NEEDS, monkeypatch, **options)
    assert any(done)
    assert (len(plan.blocks) > 1) == (budget == 500_000)
    agree(found, measure(dense, NEEDS), 1e-5)


#: For each kind of instruction how many rows it names, and the places of those that it forms.
ROWS = {
    tables.WIDEN: (2, [1]),
    tables.SUBTRACT: (3, [2]),
    tables.ADVANCE: (5, [4]),
    tables.ADVANCE_TWO: (8, [4, 7]),
    tables.DOT: (2, []),
    tables.ONE_BY_SIX: (7, []),
    tables.TWO_BY_SIX: (8, []),
}


def band_rows(band, masks):
    """The rows in the table of all products that a band instruction is asked for."""
    for number in range(band[tables.BAND_LAGS]):
        start, stop = masks[band[tables.BAND_MASK] + number]
        first, last = max(start, band[tables.BAND_START]), min(stop, band[tables.BAND_STOP])
        for i in range(first, last):
            yield band[tables.BAND_LEFT] + i
            yield band[tables.BAND_RIGHT] + i + band[tables.BAND_FIRST_LAG] + number


def band_sums(band, masks):
    for number in range(band[tables.BAND_LAGS]):
        start, stop = masks[band[tables.BAND_MASK] + number]
        first, last = max(start, band[tables.BAND_START]), min(stop, band[tables.BAND_STOP])
        for i in range(first, last):
            yield band[tables.BAND_TOTAL] + i * band[tables.BAND_STRIDE] + number


@pytest.mark.parametrize("budget", [2**30, 700_000])
def test_instructions_find_the_rows_that_they_name_and_form_each_product_once(monkeypatch, budget):
    made = []

    def noted(plan, block, work, halves, layout):
        made.append((work, layout, plan, make_program(plan, block, work, halves, layout)))
        return made[-1][-1]

    monkeypatch.setattr("trajfile.engine.fused.make_program", noted)
    kinds = set()
    for dtype in ("f4", ml_dtypes.bfloat16):
        _, plan, _ = compiled(run(dtype, 90), NEEDS, budget=budget)
        assert (len(plan.blocks) > 1) == (budget < 2**20)
    for work, layout, plan, program in made:
        holds = {}  # which row lies in each row of the scratch memory
        sums = []
        for code in program.code:
            kinds.add(int(code[tables.KIND]))
            if code[tables.KIND] == tables.BAND:
                inputs, formed = list(band_rows(code, program.masks)), []
                sums += band_sums(code, program.masks)
            else:
                count, into = ROWS[int(code[tables.KIND])]
                rows = code[tables.ROWS : tables.ROWS + count]
                formed = [rows[place] for place in into]
                inputs = [row for place, row in enumerate(rows) if place not in into]
                # Of rows that overlap, the loops take number by number.
                assert len({int(program.scratch[row]) for row in formed}) == len(formed)
                own = code[tables.SUMS : tables.SUMS + tables.MOST_SUMS]
                sums += own[own >= 0].tolist()
            for row in inputs:
                assert program.scratch[row] < 0 or holds[program.scratch[row]] == row
            for row in formed:
                holds[program.scratch[row]] = row
        wanted = [
            layout.totals[pair.number] + i * len(plan.rows.pairs[pair.number].lags) + s.column
            for pair in work.pairs
            for s in [*(s for _, s in pair.single), *(s for run in pair.runs for s in run)]
            for i in range(s.start, s.stop)
        ]
        assert sorted(sums) == sorted(wanted)
    assert kinds == {*ROWS, tables.BAND}


def test_other_dtypes_beside_are_multiplied_the_general_way(monkeypatch):
    dense = run("f4")
    for name in ("a", "big"):
        dense.arrays["params"][name] = dense.arrays["params"][name].astype("f2")
    found, _, done = compiled(dense, NEEDS, monkeypatch)
    assert set(done) == {True, False}
    agree(found, measure(dense, NEEDS), 1e-5)


def test_a_value_that_is_not_finite_reaches_its_own_products_and_no_others():
    dense = run("f4")
    needs = [need for need in NEEDS if isinstance(need, Inner)]
    dense.arrays["params"]["big"][17, 3, 5] = np.nan
    dense.arrays["gradients"]["big"][20, 0, 0] = np.inf
    found, _, _ = compiled(dense, needs)
    with np.errstate(invalid="ignore"):
        expected = measure(dense, needs)
    for rows, band in expected.bands.items():
        np.testing.assert_array_equal(
            np.isfinite(found.bands[rows].total), np.isfinite(band.total), str(rows)
        )
    agree(found, expected, 1e-5)


def test_every_bit_is_the_same_on_any_number_of_threads():
    dense = run("f4")
    first, *others = [
        compiled(dense, NEEDS, workers=workers, width=256)[0] for workers in (1, 2, 3, 8)
    ]
    for other in others:
        for rows, band in first.bands.items():
            assert band.total.tobytes() == other.bands[rows].total.tobytes()
            for name, values in band.tensors.items():
                assert values.tobytes() == other.bands[rows].tensors[name].tobytes()


def test_without_the_compiler_the_pass_goes_the_general_way(monkeypatch):
    monkeypatch.setattr("trajfile.engine.running.kernels", lambda: None)
    dense = run("f4", rows=12)
    found, _, done = compiled(dense, NEEDS[:1], monkeypatch)
    assert not done
    agree(found, measure(dense, NEEDS[:1]), 1e-5)


def test_where_compiling_is_forbidden_there_are_no_kernels(monkeypatch):
    monkeypatch.setattr(checksum, "_compiled", None)
    monkeypatch.setattr(checksum, "_tried", False)
    checksum.forbid_compiling()
    assert not checksum.prepare()
    assert kernels() is None


def test_what_was_compiled_is_not_used_for_other_sources(tmp_path):
    """Numba looks at the file of a function alone, not at those of what it calls."""
    other = tmp_path / "other.py"
    names = []
    for text in ("A = 1", "A = 1", "A = 2"):
        other.write_text(text)

        def function(x):
            return x

        names.append(compiler(__file__, str(other))(function).py_func.__qualname__)
    assert names[0] == names[1] != names[2]
    for made, sources in (
        (compiled_kernels.multiply, (compiled_kernels, loops, tables)),
        (kernels_read.add, (kernels_read, container_kernels, stored)),
        (
            kernels_phases.work_off,
            (
                *(kernels_phases, compiled_kernels, loops, tables),
                *(kernels_read, container_kernels, stored),
            ),
        ),
    ):
        mark = compiler(*(module.__file__ for module in sources))(lambda: None).py_func.__qualname__
        assert made.py_func.__qualname__.split("_")[-1] == mark.split("_")[-1]


def test_shares_of_a_lane_are_taken_in_order_and_others_need_not_wait():
    shares = Shares(2)
    shares.put("first")
    shares.put("second")
    assert shares.take() == ("first", 0, True)
    shares.opened("first")
    assert shares.take() == ("first", 1, False)
    assert not shares.done("first", 1)
    assert shares.take() == ("second", 1, True)  # lane 0 of the first is still at work
    shares.opened("second")
    assert shares.done("first", 0)
    assert shares.take() == ("second", 0, False)
    shares.close()
    assert shares.take() is None
