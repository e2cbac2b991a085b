"""A pass in parts: whoever makes them, merged in order they are the same to the last bit."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from tests.recorded import plan_for, recorded
from tests.twin import measure
from tests.unit.test_engine import EVERYTHING, agree, run
from trajfile.engine.device import Machine
from trajfile.engine.stream import conclude_pass, run_part, run_pass

BUDGET = 90_000


def bits(measurements):
    """Every number of the measurements, by its bytes."""
    found = []
    for band in measurements.bands.values():
        found += [band.total, *band.tensors.values()]
    for sampled in measurements.sample_grams.values():
        found += [*sampled.grams, sampled.mean_norm_squared]
    for balance in measurements.layer_balances.values():
        found += [balance.frobenius, balance.diagonal_max, balance.trace]
    return b"".join(np.ascontiguousarray(values).tobytes() for values in found)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_parts_made_anywhere_in_any_order_are_the_whole(precision):
    dense = run()
    container = recorded(dense, width=8)
    plan = plan_for(container, EVERYTHING, budget=BUDGET)
    if precision == "float32":
        plan = replace(plan, precision=precision)
    shipped = pickle.dumps(plan)
    assert len(plan.parts) > 2
    assert [s for part in plan.parts for s in part] == list(plan.strips)

    def made(order, workers):
        parts = {}
        for number in order:
            mine = pickle.loads(shipped).on_threads(workers)
            elsewhere = recorded(run(), width=8)
            part = run_part(mine, mine.parts[number], elsewhere, Machine(mine.profile))
            parts[number] = pickle.dumps(part)
        ordered = (pickle.loads(parts[number]) for number in sorted(parts))
        return conclude_pass(plan, ordered, Machine(plan.profile).device)

    every = range(len(plan.parts))
    one, other = made(every, 1), made(reversed(every), 2)
    assert bits(one.measurements) == bits(other.measurements)
    assert one.bytes_read == plan.bytes_to_read
    if precision == "float64":
        agree(one.measurements, measure(dense, EVERYTHING))
    whole = run_pass(plan, container, Machine(plan.profile))
    agree(one.measurements, whole.measurements, 1e-11 if precision == "float64" else 1e-5)
    alone = run_part(plan, plan.strips, container, Machine(plan.profile))
    assert bits(conclude_pass(plan, [alone], Machine(plan.profile).device).measurements) == bits(
        whole.measurements
    )
