"""A program cut into phases finds every row where it reads it, whenever it wants it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest

from tests.recorded import plan_for, recorded
from tests.twin import Dense
from tests.unit.test_engine import EVERYTHING, SHAPES, STEP, P, walk
from trajfile.engine import frames, phases, tables
from trajfile.engine.needs import Inner, Row
from trajfile.engine.phases import cut_phases, staged_rows
from trajfile.engine.plan import Plan
from trajfile.engine.program import Program, make_program
from trajfile.engine.schedule import active_pairs, carried_rows, schedule
from trajfile.engine.totals import totals_layout

NEEDS = [need for need in EVERYTHING if isinstance(need, Inner)]
#: Nothing but these wants the first row for long.
FROM_FIRST = Row("params", P, "offset", 0)
FIRST = [Inner(FROM_FIRST, FROM_FIRST, per_tensor=True), Inner(STEP, STEP)]


def a_plan(budget: int, rows: int = 43, needs: Sequence[Inner] = NEEDS) -> Plan:
    generator = np.random.default_rng(3)
    steps = 2 * np.arange(rows)
    dense = Dense(
        {"params": steps, "gradients": steps[::2]},
        {
            "params": {n: walk(generator, rows, s) for n, s in SHAPES.items()},
            "gradients": {n: walk(generator, len(steps[::2]), s) for n, s in SHAPES.items()},
        },
    )
    plan = plan_for(recorded(dense), needs, budget=budget, workers=1)
    return replace(plan, precision="float32")


def programs(plan: Plan) -> Iterator[tuple[object, frozenset[str], Program]]:
    layout = totals_layout(plan)
    for block in plan.blocks:
        for active in {active_pairs(plan, r) for strip in plan.strips for r in strip.regions}:
            for halves in (frozenset(), frozenset({"params"})):
                work = schedule(plan, block, active)
                yield block, halves, make_program(plan, block, work, halves, layout)


def named(instruction: np.ndarray) -> set[int]:
    """The rows of the table that an instruction reads or forms, told from its meaning."""
    kind = int(instruction[tables.KIND])
    if kind != tables.BAND:
        places = {
            tables.WIDEN: 2,
            tables.SUBTRACT: 3,
            tables.ADVANCE: 5,
            tables.ADVANCE_TWO: 8,
            tables.DOT: 2,
            tables.ONE_BY_SIX: 7,
            tables.TWO_BY_SIX: 8,
        }[kind]
        return set(instruction[tables.ROWS : tables.ROWS + places].tolist())
    b = {name: int(instruction[getattr(tables, f"BAND_{name}")]) for name in BAND}
    rows = set()
    for i in range(b["START"], b["STOP"]):
        rows.add(b["LEFT"] + i)
        for j in range(i + b["FIRST_LAG"], i + b["FIRST_LAG"] + b["LAGS"]):
            if b["RIGHT_FIRST"] <= j < b["RIGHT_STOP"]:
                rows.add(b["RIGHT"] + j)
    return rows


BAND = ("LEFT", "RIGHT", "START", "STOP", "FIRST_LAG", "LAGS", "RIGHT_FIRST", "RIGHT_STOP")


@pytest.mark.parametrize("at_a_time", [1, 3, 8, 1000])
@pytest.mark.parametrize(("budget", "needs"), [(2**30, NEEDS), (120_000, NEEDS), (2**30, FIRST)])
def test_rows_are_there_when_they_are_wanted(
    at_a_time: int, budget: int, needs: list[Inner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phases, "PHASE_ROWS", at_a_time)
    plan = a_plan(budget, needs=needs)
    assert (len(plan.blocks) > 1) == (budget < 2**30)
    fewer = 0
    for block, halves, program in programs(plan):
        streams = set(block.staged)
        cut = cut_phases(plan, block, program, streams)
        numbers = list(block.staged)
        recorded_at = {
            row: (stream, number)
            for stream, rows, staged in staged_rows(plan, block, program)
            for row, number in zip(rows.tolist(), staged.tolist(), strict=True)
        }
        for reference, row in enumerate(block.references):
            stream, _ = plan.rows.references[reference]
            lasting = len(plan.blocks) > 1 or stream in halves
            assert program.copied[reference] == lasting
            if not lasting:
                recorded_at[reference] = stream, row
        held: dict[tuple[str, int], int] = {}
        seen = []
        copied = False
        for phase, (low, high) in enumerate(zip(cut.cuts, cut.cuts[1:], strict=False)):
            for number, row in cut.order[phase * cut.rows : (phase + 1) * cut.rows].tolist():
                stream = numbers[number]
                seen.append((stream, row))
                held[stream, int(cut.slot[stream][row])] = row
                assert cut.slot[stream][row] < cut.slots[stream]
            if not copied and (high > 0 or phase + 2 == len(cut.cuts)):
                copied = True
                for (stream, _), row in zip(plan.rows.references, block.references, strict=False):
                    assert held[stream, int(cut.slot[stream][row])] == row
            for instruction in program.code[low:high]:
                for stream, row in map(recorded_at.get, named(instruction) & set(recorded_at)):
                    assert held[stream, int(cut.slot[stream][row])] == row
        wanted = {(s, row) for s in streams for row in range(len(block.staged[s]))}
        assert set(seen) == wanted
        assert len(seen) == len(wanted)  # each once
        for track, (first, count) in program.tracks.items():  # what the next block wants is left
            for row in range(first + max(0, count - plan.carries[track]), first + count):
                if row >= first + carried_rows(plan, block, track) and row in recorded_at:
                    stream, number = recorded_at[row]
                    assert held[stream, int(cut.slot[stream][number])] == number
        fewer += sum(cut.slots.values()) < len(wanted)
    assert fewer or at_a_time == 1000


def test_rows_that_nothing_wants_are_given_up_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a stream of which only matrices are kept."""
    monkeypatch.setattr(phases, "PHASE_ROWS", 4)
    plan = a_plan(2**30)
    layout = totals_layout(plan)
    (block,) = plan.blocks
    (active,) = {active_pairs(plan, r) for strip in plan.strips for r in strip.regions}
    kinds = {}
    for streams in ((), ("params",), ("params", "gradients")):
        some = tuple(
            item
            for item in active
            for pair in (plan.rows.pairs[item.number],)
            if {
                plan.rows.tracks[plan.rows.sequences[side].track].stream
                for side in (pair.left, pair.right)
            }
            <= set(streams)
        )
        program = make_program(plan, block, schedule(plan, block, some), frozenset(), layout)
        kinds[streams] = cut_phases(plan, block, program, ["params", "gradients"]).slots
    assert kinds[()]["gradients"] <= 4
    assert kinds["params",]["gradients"] <= 4
    assert kinds["params",]["params"] == kinds["params", "gradients"]["params"]


def test_a_frame_keeps_rows_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "PHASE_ROWS", 5)
    plan = a_plan(2**30)
    for block, _, program in programs(plan):
        cut = cut_phases(plan, block, program, ["params", "gradients"])
        dtypes = {"params": "bfloat16", "gradients": "float32"}
        for room in (2**16, 2**20, 2**24):
            frame = frames.make_frame(cut, block, dtypes, program.scratch_rows, room, 10**6)
            assert frame is not None
            assert frame.nbytes <= min(room, frames.FRAME_BYTES)
            taken = np.zeros(frame.nbytes, np.int64)
            sizes = {"params": 2, "gradients": 4}
            for stream, rows in [*frame.rows.items(), ("formed", frame.formed)]:
                for row in range(rows.count):
                    begin = rows.start + row * rows.stride
                    taken[begin : begin + frame.columns * sizes.get(stream, 4)] += 1
            assert taken.max() == 1
        assert frames.make_frame(cut, block, dtypes, program.scratch_rows, 1000, 10**6) is None
        narrow = frames.make_frame(cut, block, dtypes, program.scratch_rows, 2**24, 700)
        assert narrow is not None
        assert narrow.columns == frames.UNIT  # no more than what holds the widest piece
