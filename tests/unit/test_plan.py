"""The plan: what it reads, how it stays within the memory, and what it says of itself."""

import math
import subprocess
import sys

import numpy as np
import pytest

from tests.recorded import plan_for, recorded
from tests.twin import Dense
from trajfile.engine import shape
from trajfile.engine.budget import format_bytes, parse_bytes
from trajfile.engine.columns import cut_strips
from trajfile.engine.needs import Inner, LayerPair, Row, Timeline
from trajfile.errors import ResourceError, UsageError

P = Timeline(("params",))
PG = Timeline(("params", "gradients"))
VALUE = Row("params", P)
STEP = Row("params", P, "difference")


def run(rows=16, columns=100, every=1):
    generator = np.random.default_rng(0)

    def normal(count, size):
        return generator.standard_normal((count, size)).astype("f4")

    steps = np.arange(rows)
    return Dense(
        {"params": steps, "gradients": steps[::every]},
        {
            "params": {"a": normal(rows, columns), "b": normal(rows, 7)},
            "gradients": {"a": normal(len(steps[::every]), columns)},
        },
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2**31),
        ("512MB", 512_000_000),
        ("1.5g", 3 * 2**29),
        ("64 KiB", 65536),
        ("100", 100),
        (4096, 4096),
    ],
)
def test_sizes_are_read_as_people_write_them(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "2 gigs", "-1", "0", "1e9", True])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="2GiB"):
        parse_bytes(text)


def test_sizes_are_written_for_people():
    shown = [format_bytes(size) for size in (640, 1536, 2**31, 5 * 2**40)]
    assert shown == ["640 B", "1.5 KiB", "2 GiB", "5 TiB"]


def test_the_same_rows_under_other_names_are_one_track_and_one_pair():
    # Every step has a gradient, so both timelines hold the same steps.
    other = Row("params", PG, "difference")
    plan = plan_for(
        recorded(run()),
        [
            Inner(STEP, STEP, (0, 1)),
            Inner(other, other, (-2, 0), per_tensor=True),
            Inner(STEP, VALUE, (1,)),
            Inner(VALUE, STEP, (-1, 3)),
        ],
    )
    assert len(plan.rows.tracks) == 1
    assert len(plan.rows.pairs) == 2
    assert sorted(pair.lags for pair in plan.rows.pairs) in (
        [(-3, 1), (0, 1, 2)],
        [(-1, 3), (0, 1, 2)],
    )


def test_only_rows_and_streams_that_are_needed_are_read():
    sparse = run(every=4)
    on_common_steps = Row("params", PG)
    plan = plan_for(recorded(sparse), [Inner(on_common_steps, Row("gradients", PG))])
    assert plan.rows.needed["params"].tolist() == [0, 4, 8, 12]
    assert plan.bytes_to_read == 2 * 4 * 100 * 4  # "b" has no gradients, so nobody needs it


def test_strips_end_where_chunks_end():
    container = recorded(run(), width=32)
    plan = plan_for(container, [Inner(VALUE, VALUE)])
    strips = list(cut_strips(plan.header, plan.rows, container.chunk_columns, 64))
    assert [strip.columns for strip in strips] == [64, 43]  # two chunks; one and a part of one
    narrow = list(cut_strips(plan.header, plan.rows, container.chunk_columns, 20))
    starts = [strip.runs["params"][0].lane_start for strip in narrow]
    assert starts == [0, 16, 32, 48, 64, 80, 96]  # each chunk of 32 is cut evenly


def test_a_stream_in_another_order_and_dtype_is_read_in_its_own_runs():
    dense = run()
    dense.arrays["params"] = {"b": dense.arrays["params"]["b"], "a": dense.arrays["params"]["a"]}
    dense.arrays["gradients"]["a"] = dense.arrays["gradients"]["a"].astype("f8")
    dense.arrays["gradients"]["b"] = dense.arrays["params"]["b"]
    plan = plan_for(recorded(dense), [Inner(Row("params", PG), Row("gradients", PG))], workers=1)
    (strip,) = plan.strips
    assert [(run.lane, run.lane_start, run.start, run.stop) for run in strip.runs["params"]] == [
        ("float32", 0, 0, 107)
    ]
    assert [(run.lane, run.lane_start, run.start, run.stop) for run in strip.runs["gradients"]] == [
        ("float32", 0, 0, 7),
        ("float64", 0, 7, 107),
    ]


@pytest.mark.parametrize("budget", [2**20, 150_000, 80_000, 60_000])
def test_all_buffers_together_stay_within_the_budget(budget):
    plan = plan_for(recorded(run(200), width=16), [Inner(STEP, STEP, (0, 1, 2))], budget=budget)
    assert plan.peak_bytes == sum(plan.memory.values()) <= budget
    assert max(strip.columns for strip in plan.strips) <= 107


def test_less_memory_means_narrower_strips_or_shorter_blocks_never_more_passes():
    dense = run(200)
    plans = [
        plan_for(recorded(dense, width=64), [Inner(STEP, STEP)], budget=size, workers=1)
        for size in (2**20, 60_000)
    ]
    tiles = [len(plan.strips) * len(plan.blocks) for plan in plans]
    assert tiles[0] < tiles[1]
    assert plans[0].bytes_to_read == plans[1].bytes_to_read == 200 * 107 * 4
    assert {plan.passes for plan in plans} == {1}


def test_too_little_memory_is_refused_with_what_it_would_take():
    with pytest.raises(ResourceError, match="allow more memory") as caught:
        plan_for(recorded(run()), [Inner(STEP, STEP)], budget=1000)
    assert caught.value.available == 1000
    assert caught.value.needed is not None
    needed = caught.value.needed
    assert plan_for(recorded(run()), [Inner(STEP, STEP)], budget=needed).peak_bytes <= needed


def test_per_tensor_sums_are_dropped_beyond_a_quarter_of_the_memory():
    need = Inner(VALUE, VALUE, per_tensor=True)
    dense = run(100)  # 100 rows, 2 tensors, 8 bytes: 1600 for each worker
    assert plan_for(recorded(dense), [need], budget=64_000, workers=1).per_tensor
    tight = plan_for(recorded(dense, width=8), [need], budget=6_000, workers=1)
    assert not tight.per_tensor
    assert any("left out" in value for _, value in tight.describe())


def test_layer_pairs_that_do_not_fit_are_refused_with_the_reason():
    dense = run()
    dense.arrays["params"] = {
        "w1": np.ones((16, 8, 8), "f4"),
        "w2": np.ones((16, 8, 8), "f4"),
        "w3": np.ones((16, 4, 8), "f4"),
    }
    first, second = LayerPair("w1", "w2", P), LayerPair("w2", "w3", P)
    plan = plan_for(recorded(dense), [first, second, Inner(VALUE, VALUE)], budget=50_000)
    assert list(plan.rows.layers) == [second]  # the cheaper one is kept
    assert "quarter of the memory" in plan.refused[first]
    assert any(label == "refused w1, w2" for label, _ in plan.describe())


def test_a_plan_tells_what_it_will_do():
    plan = plan_for(recorded(run()), [Inner(STEP, STEP)])
    told = dict(plan.describe())
    assert told["reads"] == "6.69 KiB in 1 pass"
    assert told["  params"] == "16 rows"
    assert told["columns"] == "107 in 1 strips of up to 107"
    assert {"memory", "  tiles", "  scratch", "device"} <= told.keys()


def test_nothing_needed_is_nothing_read():
    plan = plan_for(recorded(run()), [])
    assert plan.bytes_to_read == 0
    assert plan.strips == ()


def test_planning_does_not_import_pytorch():
    code = "import sys, trajfile.analyze; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_few_columns_are_dealt_to_few_lanes_where_products_keep_up_with_reading() -> None:
    steps = np.arange(4)
    for columns, single_above, lanes in (
        (1000, 0, 2),
        (12_288, 0, 3),
        (40_000, 0, 8),
        (1000, math.inf, 8),  # float64, where products take longest
    ):
        dense = Dense({"params": steps}, {"params": {"w": np.ones((4, columns), "f4")}})
        container = recorded(dense)
        for workers in (1, 16):
            plan = plan_for(
                container, [Inner(VALUE, VALUE)], workers=workers, single_above=single_above
            )
            assert plan.lanes == lanes
            assert plan.profile.workers == min(workers, lanes)


def test_small_tiles_hold_twice_as_many_rows(monkeypatch) -> None:
    dense = Dense({"params": np.arange(9000)}, {"params": {"w": np.ones((9000, 3), "f4")}})
    container = recorded(dense)

    def most():
        plan = plan_for(container, [Inner(VALUE, VALUE)], scratch=2**24)
        return max(len(block.staged["params"]) for block in plan.blocks)

    assert shape.WINDOW_ROWS < most() <= 2 * shape.WINDOW_ROWS
    monkeypatch.setattr(shape, "SMALL_TILE_BYTES", 2**10)
    assert most() <= shape.WINDOW_ROWS
